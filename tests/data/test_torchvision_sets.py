import gzip
import hashlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from torchvision import datasets

from convnets.data import DataUnavailableError, FashionMNISTSampleDataModule, TorchvisionDataModule, archive
from convnets.data.fashion_mnist import SAMPLE_DIR
from convnets.data.torchvision_sets import CIFAR10, CIFAR100, EMNIST, SETS

SIZES = {"train": 12, "test": 5}
random = np.random.default_rng(0)


def idx(values):
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def read(set, folder, **options):
    datamodule = TorchvisionDataModule(set, folder, **options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def write_idx(folder, source, first_label=0):
    """Files of MNIST's format; returns their images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for place, number in enumerate(SIZES.values()):
        images = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = np.arange(number) % len(source.class_names)
        for name, values in zip(source.files[2 * place :][:2], (images, labels + first_label), strict=True):
            content = idx(values)
            (folder / f"{name}.gz").write_bytes(gzip.compress(content)) if place else (folder / name).write_bytes(
                content
            )
        made.append((images, labels))
    return made


def source_of(name, split=None):
    return SETS[name] if split is None else EMNIST[split]


@pytest.mark.parametrize(
    ("name", "split"), [("mnist", None), ("kmnist", None), ("emnist", "balanced"), ("emnist", "letters")]
)
@pytest.mark.parametrize("directly", [False, True])
def test_files_of_mnists_format_are_read_where_they_are(tmp_path, name, split, directly):
    source = source_of(name, split)
    made = write_idx(tmp_path if directly else tmp_path / source.folder, source, int(split == "letters"))
    options = {"split": split} if split else {}
    datamodule = read(name, tmp_path, **options)
    for (images, labels), part in zip(made, (datamodule.splits["train"], datamodule.splits["test"]), strict=True):
        upright = images.transpose(0, 2, 1) if name == "emnist" else images
        np.testing.assert_array_equal(part.stored.squeeze(1), upright)
        assert part.labels.tolist() == labels.tolist()
    assert (datamodule.num_channels, datamodule.image_size) == (1, 28)
    assert read(name, tmp_path, **options).digest == datamodule.digest
    write_idx(tmp_path if directly else tmp_path / source.folder, source, int(split == "letters"))
    assert read(name, tmp_path, **options).digest != datamodule.digest


def test_torchvision_reads_the_same(tmp_path):
    for name, split in (("mnist", None), ("emnist", "letters")):
        source = source_of(name, split)
        write_idx(tmp_path / source.folder, source, int(split == "letters"))
        for path in (tmp_path / source.folder).glob("*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        datamodule = read(name, tmp_path, split=split)
        for split_name, part in (("train", datamodule.splits["train"]), ("test", datamodule.splits["test"])):
            theirs = source.kind(tmp_path, **source.options(split_name))
            images = theirs.data.transpose(1, 2) if name == "emnist" else theirs.data
            assert torch.equal(part.stored.squeeze(1), images)
            names = [theirs.classes[label].split(" - ")[0] for label in theirs.targets]
            assert [datamodule.class_names[label] for label in part.labels] == names


def test_fashion_mnists_sample_serves_as_mnist(tmp_path):
    for path in SAMPLE_DIR.glob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sample = FashionMNISTSampleDataModule()
    sample.setup()
    assert torch.equal(read("mnist", tmp_path).splits["test"].stored, sample.splits["test"].stored)


def write_cifar(folder, kind, monkeypatch):
    """Batches as CIFAR's makers pickle them, and their checksums in place of torchvision's."""
    (folder / kind.base_folder).mkdir(parents=True)
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    names = list(CIFAR10) if kind is datasets.CIFAR10 else CIFAR100.split()

    def write(name, content):
        path = folder / kind.base_folder / name
        path.write_bytes(pickle.dumps(content))
        return [name, hashlib.md5(path.read_bytes()).hexdigest()]

    made = {}
    for split in ("train_list", "test_list"):
        batches = []
        for name, _ in getattr(kind, split):
            data = random.integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
            batches.append((name, data, [len(names) - 1, 0, 5, 3]))
        made[split] = batches
        monkeypatch.setattr(kind, split, [write(name, {"data": data, key: labels}) for name, data, labels in batches])
    digest = write(kind.meta["filename"], {kind.meta["key"]: names})[1]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": digest})
    return made


@pytest.mark.parametrize(("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifars_batches_are_read_and_verified(tmp_path, monkeypatch, name, kind):
    made = write_cifar(tmp_path, kind, monkeypatch)
    datamodule = read(name, tmp_path)
    for split, part in (("train_list", datamodule.splits["train"]), ("test_list", datamodule.splits["test"])):
        expected = np.concatenate([data for _, data, _ in made[split]]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(part.stored, expected)
        assert part.stored.is_contiguous()  # without a copy: torchvision only turns the axes
        assert part.labels.tolist() == [label for *_, labels in made[split] for label in labels]
    assert list(datamodule.class_names) == kind(tmp_path).classes
    assert datamodule.digest is None
    path = tmp_path / kind.base_folder / kind.test_list[0][0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=rf"files of {datamodule.name} in .* are not torchvision's: Dataset not found or c"
    ):
        read(name, tmp_path)


def test_svhn_is_read_with_scipy(tmp_path, monkeypatch):
    scipy = pytest.importorskip("scipy.io", reason="needs scipy: pip install 'convnets[svhn]'")
    files = {}
    for split, number in SIZES.items():
        images = random.integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
        path = tmp_path / f"{split}_32x32.mat"
        scipy.savemat(path, {"X": images, "y": 1 + np.arange(number)[:, None] % 10})
        files[split] = ["url", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        files[split, "images"] = images
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    datamodule = read("svhn", tmp_path)
    assert datamodule.splits["test"].labels.tolist() == [1, 2, 3, 4, 5]
    assert datamodule.splits["train"].labels[9] == 0  # the files call it 10
    np.testing.assert_array_equal(datamodule.splits["test"].stored, files["test", "images"].transpose(3, 2, 0, 1))


def test_svhn_without_scipy_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("convnets.data.torchvision_sets.find_spec", lambda name: None)
    with pytest.raises(DataUnavailableError, match=r"needs the extra `svhn`: .* -m pip install scipy$"):
        read("svhn", tmp_path)


def test_out_of_reach_is_said_with_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataUnavailableError) as error:
        read("cifar10", tmp_path / "data")
    folder = tmp_path / "data"
    assert f"CIFAR-10 is not in {folder}, and could not be downloaded: " in str(error.value)
    assert "data_batch_1, data_batch_2, " in str(error.value)
    assert f"into {folder / 'cifar-10-batches-py'}, or name the folder" in str(error.value)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_files_of_another_set_are_refused(tmp_path):
    source = SETS["mnist"]
    write_idx(tmp_path, source)
    (tmp_path / source.files[1]).write_bytes(idx(np.full(SIZES["train"], 10)))
    with pytest.raises(ValueError, match=r"are not those of MNIST: .* and labels from 10 to 10\."):
        read("mnist", tmp_path)
    (tmp_path / source.files[0]).write_bytes(b"no IDX")
    with pytest.raises(ValueError, match="is no whole IDX file"):
        read("mnist", tmp_path)


def test_another_set_or_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.set must be mnist, kmnist, .* or svhn, got 'imagenet'\."):
        TorchvisionDataModule("imagenet", tmp_path)
    with pytest.raises(ValueError, match=r"data\.split must be byclass, .* or mnist, got None\."):
        TorchvisionDataModule("emnist", tmp_path)


def test_what_is_missing_is_downloaded_and_what_is_there_stays(tmp_path, monkeypatch):
    source, folder = SETS["mnist"], tmp_path / "data" / SETS["mnist"].folder
    write_idx(tmp_path / "made", source)
    folder.mkdir(parents=True)
    (folder / source.files[3]).write_bytes(b"a user's")
    (tmp_path / "data" / f"{archive.INCOMING}of a killed process").mkdir()
    copying = f"shutil.copytree({str(tmp_path / 'made')!r}, 'MNIST/raw', dirs_exist_ok=True)"
    program = f"{archive.TORCHVISION}; import shutil; datasets.MNIST = lambda *_, **__: {copying}"
    monkeypatch.setattr(archive, "TORCHVISION", program)
    TorchvisionDataModule("mnist", tmp_path / "data").prepare_data()
    assert (folder / source.files[3]).read_bytes() == b"a user's"
    assert (folder / source.files[0]).read_bytes() == (tmp_path / "made" / source.files[0]).read_bytes()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".lock", "MNIST"}


def test_cifars_archive_is_unpacked_where_it_lies(tmp_path, monkeypatch):
    write_cifar(tmp_path / "made", datasets.CIFAR10, monkeypatch)
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / datasets.CIFAR10.filename
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "made" / datasets.CIFAR10.base_folder, datasets.CIFAR10.base_folder)
    facts = {name: getattr(datasets.CIFAR10, name) for name in ("train_list", "test_list", "meta")}
    facts |= {"tgz_md5": hashlib.md5(path.read_bytes()).hexdigest(), "url": "http://127.0.0.1:9"}
    local = "\n".join(f"datasets.CIFAR10.{name} = {value!r}" for name, value in facts.items())
    monkeypatch.setattr(archive, "TORCHVISION", f"{archive.TORCHVISION}\n{local}")
    assert len(read("cifar10", folder).splits["train"]) == 20
    assert path.is_file()
