"""Cut the packaged sample out of Fashion-MNIST: the first 100 training and 20 test images of each class.

python scripts/make_sample.py [FOLDER with the four files]
"""

import gzip
import sys
from pathlib import Path

import torch

from convnets.data.archive import SPLIT_FILES, ensure_files, read_idx
from convnets.data.fashion_mnist import SAMPLE_DIR

data_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/convnets/fashion-mnist").expanduser()
ensure_files(data_dir)
for split, per_class in (("train", 100), ("test", 20)):
    images_name, labels_name = SPLIT_FILES[split]
    images, labels = read_idx(data_dir / images_name), read_idx(data_dir / labels_name)
    chosen = torch.cat([(labels == label).nonzero().squeeze(1)[:per_class] for label in labels.unique()]).sort().values
    for name, values in ((images_name, images[chosen]), (labels_name, labels[chosen])):
        header = bytes([0, 0, 8, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        content = gzip.compress(header + values.numpy().tobytes(), mtime=0)
        (SAMPLE_DIR / f"{name}.gz").write_bytes(content)
        print(f"{SAMPLE_DIR / name}.gz: {tuple(values.shape)}, {len(content):,} bytes")
