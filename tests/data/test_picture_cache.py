import collections
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from convnets.data import own_pictures, picture_cache
from convnets.data.archive import DataUnavailableError
from convnets.data.own_pictures import MOST_PIXELS, decode, fill_square
from convnets.data.picture_cache import PictureCache, PictureFile
from convnets.data.sampling import ImageBatches

SIZE = 16


def make_cache(tmp_path, paths, **options):
    files = [PictureFile(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return PictureCache(tmp_path / "cache", tmp_path, files, options.get("image_size", SIZE), 3)


@pytest.fixture
def pictures(tmp_path):
    """Eight files of one colour each, told apart by their red."""
    paths = [tmp_path / f"{number:02}.png" for number in range(8)]
    for number, path in enumerate(paths):
        Image.new("RGB", (24, 20), (10 * number, 0, 255)).save(path)
    return paths


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]),
    suffix=st.sampled_from(["png", "jpg", "webp", "bmp", "tiff", "gif", "ppm"]),
    turned=st.integers(1, 8),
    num_channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_pictures_of_any_size_and_mode_are_what_pillow_makes_of_them(
    tmp_path, width, height, mode, suffix, turned, num_channels, seed
):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    picture = deep if mode == "I;16" else Image.fromarray(pixels).convert("RGB" if mode in "CMYK YCbCr" else "RGBA")
    picture = picture if mode == "I;16" else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / f"picture.{suffix}"
    try:
        picture.save(path, **({"exif": exif} if suffix in ("png", "jpg", "webp", "tiff") else {}))
    except (OSError, ValueError):  # a format that has no such mode
        return
    image = decode(str(path), SIZE, num_channels)
    if max(width, height) > 20 * min(width, height):
        sides = {f"{width} x {height}", f"{height} x {width}"}  # Pillow turns a TIFF before it tells its size
        assert image in {f"of {side} pixels its middle square would show less than a twentieth" for side in sides}
        return
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode in ("I;16", "I"):
            upright = Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
        if upright.has_transparency_data:
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        plain = upright.convert("RGB").convert("RGB" if num_channels == 3 else "L")
    expected = np.asarray(ImageOps.fit(plain, (SIZE, SIZE), Image.Resampling.BILINEAR))
    assert isinstance(image, bytes), image
    found = np.frombuffer(image, np.uint8).reshape(num_channels, SIZE, SIZE)
    np.testing.assert_array_equal(found, np.atleast_3d(expected).transpose(2, 0, 1))


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_and_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 1600, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), axis=2)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as picture:
        found = fill_square(picture, 96, 3).astype(int)
        assert picture.size == (200, 200)
    with Image.open(tmp_path / "large.jpg") as picture:
        whole = np.asarray(ImageOps.fit(picture, (96, 96), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(found - whole).max() <= 3


def test_bad_files_are_told_with_the_reason(tmp_path, monkeypatch):
    noise = Image.effect_noise((64, 64), 50)
    contents = {"empty.jpg": b"", "words.png": b"no picture"}
    for suffix in ("png", "jpg", "webp", "tiff"):
        noise.save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        contents[f"cut.{suffix}"] = whole[: len(whole) // 2]
    Image.new("1", (30_000, 1)).save(tmp_path / "line.png")
    Image.new("1", (17_000, 17_000)).save(tmp_path / "bomb.png")  # 289 megapixels
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = ["bomb.png", "line.png", *contents, "whole.png"]
    cache = make_cache(tmp_path, [tmp_path / name for name in names])
    cache.fill()
    bad = cache.bad_files()
    assert [*bad] == names[:-1]
    assert bad["bomb.png"] == f"has 17,000 x 17,000 pixels, and at most {MOST_PIXELS:,} are decoded"
    assert bad["line.png"] == "of 30,000 x 1 pixels its middle square would show less than a twentieth"
    assert bad["empty.jpg"] == "is empty"
    assert bad["words.png"].startswith("is no JPEG, PNG,")
    assert all(bad[f"cut.{suffix}"].startswith("is ") for suffix in ("png", "jpg", "webp", "tiff"))
    images = cache.open().images
    assert images[:-1].max() == 0
    assert images[-1].max() > 0


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """Let decoders do something at the seventh picture."""

    def fragile(action):
        program = tmp_path / "fragile.py"
        program.write_text(
            f"import os, sys; sys.path.insert(0, {str(Path(own_pictures.__file__).parent)!r}); import own_pictures\n"
            "decode = own_pictures.decode\n"
            f"own_pictures.decode = lambda path, *rest: {action} if path.endswith('07.png') else decode(path, *rest)\n"
            "own_pictures.decode_on_request(sys.argv[1], *map(int, sys.argv[2:]))\n"
        )
        monkeypatch.setattr(own_pictures, "__file__", str(program))

    return fragile


def test_a_file_at_which_its_decoder_crashes_is_bad_and_the_others_are_not(pictures, tmp_path, fragile):
    fragile("os.abort()")
    cache = make_cache(tmp_path, pictures)
    cache.fill()
    assert cache.bad_files() == {"07.png": "ends the program that decodes it"}
    assert cache.open().images[:, 0, 0, 0].tolist() == [0 if n == 7 else 10 * n for n in range(8)]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("os.kill(os.getpid(), 9)", r"ended twice at .*07\.png\. Start again with more memory free, or"),  # no memory
        ("{}[0]", r"ended twice at .*07\.png"),
        ("import nothing", "does not start. To see why: .*fragile.py"),
    ],
)
def test_what_ends_decoders_otherwise_makes_no_file_bad(pictures, tmp_path, fragile, action, words):
    fragile(action)
    cache = make_cache(tmp_path, pictures)
    with pytest.raises(DataUnavailableError, match=words):
        cache.fill()
    assert cache.bad_files() is None
    assert not [*cache.path.iterdir()]


def test_a_decoder_that_cannot_be_started_leaves_no_black_pictures(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    cache = make_cache(tmp_path, pictures)
    with pytest.raises(DataUnavailableError, match="No process can be started to decode pictures: No such file"):
        cache.fill()
    assert cache.bad_files() is None


def test_a_read_error_names_the_picture(pictures, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")  # as of a read, which names no file

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Input/output error") as error:
        decode(str(pictures[0]), SIZE, 3)
    assert error.value.filename == str(pictures[0])


def test_a_decoded_set_is_not_decoded_again_and_a_damaged_cache_is(pictures, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cache = make_cache(tmp_path, pictures)
    assert cache.bad_files() is None
    cache.fill()
    assert caplog.messages[0].startswith("decoding 8 pictures of")
    caplog.clear()
    again = make_cache(tmp_path, pictures)
    again.fill()
    assert not caplog.messages
    folder = cache.path
    for damage in (
        lambda: (folder / "index.json").unlink(),
        lambda: (folder / "index.json").write_text("{"),
        lambda: (folder / "index.json").write_text("{}"),
        lambda: (folder / "index.json").write_text('{"bad_files": [1]}'),
        lambda: os.truncate(folder / "images", 100),
        lambda: (folder / "images").unlink(),
    ):
        damage()
        assert make_cache(tmp_path, pictures).bad_files() is None
        again.fill()
        assert again.open().images[:, 0, 5, 5].tolist() == [10 * number for number in range(8)]
    make_cache(tmp_path, pictures, image_size=8).fill()  # is used, too
    os.utime(pictures[0], ns=(0, 0))
    caplog.clear()
    make_cache(tmp_path, pictures).fill()
    assert caplog.messages[-1] == f"what was decoded of earlier states of this folder: rm -r {folder}"


def test_folders_whose_files_look_alike_do_not_share_their_images(tmp_path):
    reds = {}
    for red in (10, 20):
        (tmp_path / str(red)).mkdir()
        path = tmp_path / str(red) / "picture.bmp"
        Image.new("RGB", (24, 20), (red, 0, 0)).save(path)
        os.utime(path, ns=(0, 0))
        cache = PictureCache(tmp_path / "cache", path.parent, [PictureFile(path.name, path.stat().st_size, 0)], SIZE, 3)
        cache.fill()
        reds[cache.open().images[0, 0, 0, 0].item()] = cache.digest
    assert [*reds] == [10, 20]
    assert reds[10] == reds[20]


def fill_slowly(cache, delay):
    decode_all = picture_cache._decode

    def decode_slowly(*arguments):
        with (cache.folder / "calls").open("a") as file:
            file.write("decoded\n")
        time.sleep(delay)
        return decode_all(*arguments)

    picture_cache._decode = decode_slowly
    cache.fill()


def test_killed_while_decoding_it_begins_anew_and_leaves_nothing_half(pictures, tmp_path):
    cache = make_cache(tmp_path, pictures)
    process = multiprocessing.get_context("fork").Process(target=fill_slowly, args=(cache, 100))
    process.start()
    half = cache.path / ".images.incoming"
    while not half.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert cache.bad_files() is None
    other = make_cache(tmp_path, pictures[1:])
    other.fill()
    assert not half.exists()
    assert other.open().images[:, 0, 0, 0].tolist() == [10 * number for number in range(1, 8)]


def test_of_several_processes_one_decodes(pictures, tmp_path):
    cache = make_cache(tmp_path, pictures)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill_slowly, args=(cache, 0.3)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "calls").read_text() == "decoded\n"


def test_no_room_is_said_before_and_when_the_disk_is_full(pictures, tmp_path, monkeypatch):
    cache = make_cache(tmp_path, pictures)
    usage = collections.namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 6_000))
        with pytest.raises(DataUnavailableError) as error:
            cache.fill()
        assert str(error.value) == (
            f"{tmp_path / 'cache'} has 6.0 kB free, and 8 decoded pictures would take 6.1 kB. "
            "Set data.cache_dir=FOLDER to a place with room, or data.stored_size to less than 16."
        )

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DataUnavailableError, match=r"8 decoded pictures would take 6\.1 kB\. Set data\.cache_dir"):
            cache.fill()
    assert not [*cache.path.iterdir()]
    (tmp_path / "file").write_text("")
    cache.cache_dir = tmp_path / "file"
    with pytest.raises(DataUnavailableError, match=r"file cannot be written: .* Set data\.cache_dir=FOLDER"):
        cache.fill()


def test_a_file_that_vanished_is_named(pictures, tmp_path):
    cache = make_cache(tmp_path, pictures)
    pictures[3].unlink()
    with pytest.raises(DataUnavailableError, match=r"03\.png cannot be read: No such file or directory\. Make it"):
        cache.fill()


def resident_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}


def test_a_set_larger_than_memory_takes_little_of_it(tmp_path, monkeypatch):
    """4,000 images of 64 px for 100,000 of 224: what a process keeps is bounded by a constant, not by the set."""
    monkeypatch.setattr(picture_cache, "RELEASED_BYTES", 2**20)
    num_images, size = 4_000, 64
    path = tmp_path / "images"
    np.random.default_rng(0).integers(0, 256, num_images * 3 * size * size, dtype=np.uint8).tofile(path)
    mapped = picture_cache.MappedImages(path, (num_images, 3, size, size))
    dataset = ImageBatches(mapped.images, torch.arange(num_images), after_reading=mapped.note_reading)
    in_memory = torch.from_numpy(np.fromfile(path, np.uint8)).view(num_images, 3, size, size)
    numbers = torch.randperm(num_images)
    assert torch.equal(dataset[numbers[:128]][0], in_memory[numbers[:128]])
    del in_memory
    before, most = resident_kilobytes(), collections.Counter()
    for some in numbers.split(16):
        dataset[some]
        for name, kilobytes in resident_kilobytes().items():
            most[name] = max(most[name], kilobytes - before[name])
    assert num_images * 3 * size * size > 45e6
    assert most["RssFile"] < 8_000  # what was read since the last release, and neighbouring pages
    assert most["RssAnon"] < 8_000  # a batch or two
