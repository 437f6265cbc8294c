"""Cut the packaged sample out of Fashion-MNIST: the first 100 training and 20 test images of each class."""

import gzip
from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_argument(
    "folder",
    nargs="?",
    type=Path,
    default="~/.cache/convnets/fashion-mnist",
    metavar="FOLDER",
    help="with the four files, which are downloaded where they are not there",
)


def main(arguments):
    """Read the four files, and write the packaged ones."""
    import torch

    from convnets.data.archive import SPLIT_FILES, ensure_files, read_idx
    from convnets.data.fashion_mnist import SAMPLE_DIR

    data_dir = arguments.folder.expanduser()
    ensure_files(data_dir)
    for split, per_class in (("train", 100), ("test", 20)):
        images_name, labels_name = SPLIT_FILES[split]
        images, labels = read_idx(data_dir / images_name), read_idx(data_dir / labels_name)
        of_classes = [(labels == label).nonzero().squeeze(1)[:per_class] for label in labels.unique()]
        chosen = torch.cat(of_classes).sort().values
        for name, values in ((images_name, images[chosen]), (labels_name, labels[chosen])):
            header = bytes([0, 0, 8, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            content = gzip.compress(header + values.numpy().tobytes(), mtime=0)
            (SAMPLE_DIR / f"{name}.gz").write_bytes(content)
            print(f"{SAMPLE_DIR / name}.gz: {tuple(values.shape)}, {len(content):,} bytes")


if __name__ == "__main__":
    command.run(main)
