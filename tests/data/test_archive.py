import functools
import gzip
import hashlib
import http.server
import logging
import math
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import tracemalloc

import pytest
import torch

from convnets.data import archive
from convnets.data.archive import DataUnavailableError, SourceError, ensure_files, read_idx, run_watched
from convnets.data.fashion_mnist import SAMPLE_DIR

# The packaged sample stands for the archive: real images, quick to move about.
CONTENT = {path.stem: gzip.decompress(path.read_bytes()) for path in SAMPLE_DIR.glob("*.gz")}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
IMAGES = "train-images-idx3-ubyte"


def nowhere(data_dir, incoming):
    raise SourceError("out of reach")


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """The real sources but for the network, with a system folder that the test fills."""
    system_dir = tmp_path / "system"
    monkeypatch.setattr(archive, "SYSTEM_DIR", system_dir)
    offline = {**archive.SOURCES, "the official mirrors": nowhere, "Debian's archive": nowhere}
    monkeypatch.setattr(archive, "SOURCES", offline)
    return system_dir


def fill(folder, compressed=True):
    folder.mkdir(exist_ok=True)
    for name, content in CONTENT.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def assert_complete(folder):
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert not list(folder.glob(f"{archive.INCOMING}*"))


def test_intact_files_are_taken_as_they_are(tmp_path, sources):
    fill(tmp_path / "data", compressed=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before


def test_compressed_files_in_the_folder_are_decompressed(tmp_path, sources):
    fill(tmp_path / "data")
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert_complete(tmp_path / "data")


def test_the_system_folder_serves_an_empty_one_and_says_so(tmp_path, sources, caplog):
    caplog.set_level(logging.INFO)
    fill(sources)
    ensure_files(tmp_path / "new" / "data", CHECKSUMS)
    assert_complete(tmp_path / "new" / "data")
    assert len(caplog.messages) == 2  # a line an attempt
    assert "data.dir" in caplog.messages[0]
    assert "found and verified" in caplog.messages[1]


def idx(*shape):
    """An IDX file of that shape, as MNIST and others have them under the same names."""
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + bytes(math.prod(shape))


OTHERS = {
    "cut short": (CONTENT[IMAGES][:5000], "damaged, cut short, or no IDX file of bytes"),
    "no IDX file": (b"holiday.txt", "damaged, cut short, or no IDX file of bytes"),
    "empty": (b"", "damaged, cut short, or no IDX file of bytes"),
    "a bit turned": (
        CONTENT[IMAGES][:-1] + bytes([CONTENT[IMAGES][-1] ^ 1]),
        "an IDX file of 1,000 images of 28x28, with other bytes than Fashion-MNIST's",
    ),
    "images": (idx(60, 28, 28), "an IDX file of 60 images of 28x28, with other bytes than Fashion-MNIST's"),
    "labels": (idx(60_000), "an IDX file of 60,000 labels, with other bytes than Fashion-MNIST's"),
}


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("suffix", ["", ".gz", "torn .gz"])
@pytest.mark.parametrize("complete", [False, True])
def test_other_files_under_the_names_are_refused_and_stay_as_they_are(tmp_path, sources, others, suffix, complete):
    fill(sources)  # from where they could be had
    folder = tmp_path / "my data"
    folder.mkdir()
    if complete:
        fill(folder, compressed=False)
        (folder / IMAGES).unlink()
    content, what = OTHERS[others]
    if suffix:
        content = gzip.compress(content)
    if suffix == "torn .gz":
        content, what = content[:15], OTHERS["empty"][1]
    path = folder / f"{IMAGES}{suffix and '.gz'}"
    path.write_bytes(content)
    (folder / ".lock").write_text("a user's")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    with pytest.raises(DataUnavailableError) as error:
        ensure_files(folder, CHECKSUMS)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before
    message = str(error.value)
    assert f"  {path.name}: {what}\n" in message
    assert "Set data.dir to another folder" in message
    subprocess.run(message.partition("can go: ")[2], shell=True, check=True)  # the way out, as it is printed
    ensure_files(folder, CHECKSUMS)
    assert_complete(folder)
    assert (folder / ".lock").read_text() == "a user's"


def test_intact_files_serve_beside_other_compressed_ones(tmp_path, sources):
    fill(tmp_path / "data", compressed=False)
    (tmp_path / "data" / f"{IMAGES}.gz").write_bytes(b"a user's")
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert (tmp_path / "data" / f"{IMAGES}.gz").read_bytes() == b"a user's"


def test_folders_and_broken_links_of_the_names_are_refused(tmp_path, sources):
    fill(sources)
    data_dir = tmp_path / "data"
    (data_dir / IMAGES).mkdir(parents=True)  # as some archives of MNIST unpack
    (data_dir / "t10k-images-idx3-ubyte").symlink_to("away")
    with pytest.raises(DataUnavailableError) as error:
        ensure_files(data_dir, CHECKSUMS)
    assert f"  {IMAGES}: a folder\n" in str(error.value)
    assert "  t10k-images-idx3-ubyte: a link to nothing\n" in str(error.value)
    assert {path.name for path in data_dir.iterdir()} == {IMAGES, "t10k-images-idx3-ubyte"}


def test_what_a_killed_process_left_is_cleared(tmp_path, sources):
    fill(sources)
    (tmp_path / "data" / f"{archive.INCOMING}abc").mkdir(parents=True)
    (tmp_path / "data" / f"{archive.INCOMING}abc" / f"{IMAGES}.whole").write_bytes(b"half")
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert_complete(tmp_path / "data")


def test_when_every_source_fails_one_error_says_what_was_tried_and_what_to_do(tmp_path, sources):
    with pytest.raises(DataUnavailableError) as error:
        ensure_files(tmp_path / "data", CHECKSUMS)
    message = str(error.value)
    assert "data.dir: no intact " in message
    assert f"{archive.SYSTEM_DIR}: no such folder" in message or "no such folder" in message
    assert "the official mirrors: out of reach" in message
    assert "Debian's archive: out of reach" in message
    assert f"into {tmp_path / 'data'}, or name the folder that has them with data.dir=FOLDER" in message
    assert "data=fashion_mnist_sample" in message
    assert not [path for path in (tmp_path / "data").iterdir() if path.name != ".lock"]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_folder_that_cannot_be_written_serves_as_it_is(tmp_path, sources, monkeypatch, compressed):
    def refuse(data_dir):
        raise PermissionError(13, "Permission denied")

    fill(tmp_path / "data", compressed)
    monkeypatch.setattr(archive, "locked", refuse)  # root, as whom tests may run, may write everywhere
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert read_idx(tmp_path / "data" / IMAGES).shape == (1000, 28, 28)


def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path, sources, monkeypatch):
    fill(sources)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DataUnavailableError, match="No space left on device"):
            ensure_files(tmp_path / "data", CHECKSUMS)
    assert not [path for path in (tmp_path / "data").iterdir() if path.name != ".lock"]
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert_complete(tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, sources):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(DataUnavailableError, match=r"cannot be kept in .*data: .* Set data\.dir to a folder"):
        ensure_files(tmp_path / "data", CHECKSUMS)


def test_two_processes_at_once_both_end_with_good_data(tmp_path, sources):
    fill(sources)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ensure_files, args=(tmp_path / "data", CHECKSUMS)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert_complete(tmp_path / "data")


def test_a_download_killed_half_way_leaves_nothing_half(tmp_path, sources, monkeypatch):
    def half(data_dir, incoming):
        (incoming / IMAGES).write_bytes(CONTENT[IMAGES][:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "SOURCES", {"half a download": half})
        process = multiprocessing.get_context("fork").Process(target=ensure_files, args=(tmp_path / "data", CHECKSUMS))
        process.start()
        process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "data" / IMAGES).exists()
    fill(sources)
    ensure_files(tmp_path / "data", CHECKSUMS)
    assert_complete(tmp_path / "data")


def test_a_command_without_progress_is_killed(tmp_path):
    program = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"
    with pytest.raises(SourceError, match="no progress for 3 s, given up"):
        run_watched([sys.executable, "-c", program], tmp_path, stall_seconds=3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_slow_command_that_goes_on_is_let_be(tmp_path):
    program = "import time\nfor i in range(8): open('f', 'a').write('x'); time.sleep(0.25)"
    run_watched([sys.executable, "-c", program], tmp_path, stall_seconds=1)
    assert (tmp_path / "f").read_text() == "x" * 8


def test_a_failing_command_tells_its_last_line(tmp_path):
    with pytest.raises(SourceError, match=r"^the reason$"):
        run_watched([sys.executable, "-c", "print('noise'); raise SystemExit('the reason')"], tmp_path)


def test_mirrors_are_asked_through_torchvision(tmp_path, monkeypatch):
    served = tmp_path / "served"
    fill(served)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in served.iterdir()]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirrors = [f"http://127.0.0.1:{server.server_port}/"]
        local = f"kind = datasets.FashionMNIST; kind.mirrors, kind.resources = {mirrors}, {resources}"
        monkeypatch.setattr(archive, "TORCHVISION", f"{archive.TORCHVISION}; {local}")
        only = {"the official mirrors": archive.SOURCES["the official mirrors"]}
        monkeypatch.setattr(archive, "SOURCES", only)
        ensure_files(tmp_path / "data", CHECKSUMS)
        server.shutdown()
    assert_complete(tmp_path / "data")


@pytest.mark.network
def test_debians_archive_has_the_official_bytes(tmp_path, monkeypatch):
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get on this system")
    monkeypatch.setattr(archive, "SOURCES", {"Debian's archive": archive.SOURCES["Debian's archive"]})
    try:
        ensure_files(tmp_path / "data")
    except DataUnavailableError as error:
        pytest.skip(f"Debian's archive is out of reach: {error}")
    assert read_idx(tmp_path / "data" / IMAGES).shape == (60_000, 28, 28)
    assert read_idx(tmp_path / "data" / "t10k-labels-idx1-ubyte").bincount().tolist() == [1000] * 10


def test_idx_files_are_read_raw_or_compressed(tmp_path):
    (tmp_path / IMAGES).write_bytes(CONTENT[IMAGES])
    assert torch.equal(read_idx(tmp_path / IMAGES), read_idx(SAMPLE_DIR / IMAGES))


def test_a_raw_file_is_in_memory_once(tmp_path):
    (tmp_path / IMAGES).write_bytes(b"\0\0\x08\3" + struct.pack(">3i", 4_000, 28, 28) + bytes(4_000 * 28 * 28))
    tracemalloc.start()
    try:
        images = read_idx(tmp_path / IMAGES)
        assert images.nbytes <= tracemalloc.get_traced_memory()[1] < 1.1 * images.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [CONTENT[IMAGES][:-1], b"no IDX", b"", CONTENT[IMAGES] + b"\0"])
def test_a_broken_idx_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file is no whole IDX file of bytes\."):
        read_idx(tmp_path / "file")


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir()) < 600_000
