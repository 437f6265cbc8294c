"""The project computes what it did when tests/golden.json was written."""

import json

import pytest
import torch
from support import golden

from convnets.configuration.content import COMPUTATION

GOLDEN = json.loads(golden.PATH.read_text())
MOVED = (
    "The project computes something else than before. If that is meant, raise COMPUTATION in "
    "src/convnets/configuration/content.py, so that old and new runs are told apart, and write the file anew: "
    "python tests/support/golden.py"
)
# In float64 the losses differed, relative to the file's, by at most 4.7e-10 (ResNet18; the others 1.4e-15) between 1
# and 2 threads, AVX-512 and AVX2 (of ATen, oneDNN and MKL), and MKL's compatible mode. In float32 they would be off by
# 6.0e-7, and ResNet18's, which batch norm over few numbers makes chaotic, by 0.7.
TOLERANCE = 1e-5
# Without AVX2, as before 2013, ATen rounds the first weights elsewhere (LeNet: 6.4e-7), and bytes that are resized by
# up to a grey level, which moves the losses of the others.
WITHOUT_AVX2 = torch.backends.cpu.get_cpu_capability() == "DEFAULT"


def test_the_golden_file_has_the_number_of_this_computation():
    assert GOLDEN["computation"] == COMPUTATION, "write the file anew: python tests/support/golden.py"


@pytest.mark.parametrize("name", ["derive_seed", "orders", "holdout", "augmented"])
def test_seeds_orders_holdout_and_augmented_bytes_are_the_golden_ones(name):
    assert golden.exact()[name] == GOLDEN[name], MOVED


@pytest.mark.parametrize("recipe", golden.RECIPES)
def test_the_first_losses_are_the_golden_ones(recipe, tmp_path):
    if WITHOUT_AVX2 and not recipe.startswith("lenet"):
        pytest.skip("a processor without AVX2 resizes bytes with another rounding")
    losses = golden.losses(recipe, tmp_path)
    assert len(losses) == golden.NUM_LOSSES
    assert losses == pytest.approx(GOLDEN["losses"][recipe], rel=TOLERANCE), MOVED
