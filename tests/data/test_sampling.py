import pytest
import torch

from convnets.data import FashionMNISTSampleDataModule
from convnets.data.sampling import BatchSampler, ImageBatches, derive_seed, stratified_split


def batches(num_images=103, batch_size=10, seed: int | None = 0, epoch=0, first=0, rank=0, num_ranks=1):
    sampler = BatchSampler(num_images, batch_size, seed, rank, num_ranks, lambda: (epoch, first))
    return [share.numbers for share in sampler]


def test_an_epoch_has_every_image_once():
    found = batches()
    assert [len(batch) for batch in found] == [10] * 10 + [3]
    assert sorted(torch.cat(found).tolist()) == list(range(103))


def test_order_is_a_function_of_seed_and_epoch():
    def order(**options):
        return torch.cat(batches(**options)).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)}) == 25
    assert order(seed=None, epoch=3) == list(range(103))


def test_starting_at_a_batch_goes_on_where_an_epoch_was_left():
    whole, rest = batches(epoch=4), batches(epoch=4, first=7)
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_each_batch_of_the_single_process(num_ranks):
    whole = batches(epoch=1)
    shares = [batches(epoch=1, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())
        assert all(len(part) > 0 for part in parts)


def test_position_is_asked_when_the_first_batch_is():
    position = [(0, 0)]
    iterator = iter(BatchSampler(20, 10, 0, position=lambda: position[0]))
    position[0] = (3, 1)
    assert torch.equal(next(iterator).numbers, batches(20, 10, epoch=3)[1])


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_ranks"), [(101, 10, 2), (100, 1, 2), (1, 10, 2), (102, 10, 3)]
)
def test_a_batch_too_small_to_share_is_refused(num_images, batch_size, num_ranks):
    with pytest.raises(ValueError, match=f"too few for {num_ranks} devices: choose another data.batch_size."):
        BatchSampler(num_images, batch_size, seed=0, num_ranks=num_ranks)


def test_evaluation_counts_every_image_even_where_a_rank_gets_none():
    shares = [batches(101, 10, seed=None, rank=rank, num_ranks=2) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == 11
    assert sorted(torch.cat([*shares[0], *shares[1]]).tolist()) == list(range(101))


def test_seeds_are_32_bits_and_no_shifted_copies():
    seeds = {derive_seed("step", seed, 0, 0, batch) for seed in range(100) for batch in range(100)}
    assert len(seeds) == 10_000
    assert max(seeds) < 2**32
    assert derive_seed("a", 12) != derive_seed("a", 1, 2) != derive_seed("a1", 2)


def test_image_batches_gather_images_with_their_labels():
    dataset = ImageBatches(torch.arange(10).view(10, 1, 1, 1), torch.arange(10))
    images, labels = dataset[torch.tensor([3, 1])]
    assert images.flatten().tolist() == labels.tolist() == [3, 1]


def test_holdout_is_stratified_and_fixed_by_its_seed():
    labels = torch.arange(1000) % 10
    kept, held_out = stratified_split(labels, range(95), seed=0)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(1000))
    counts = labels[held_out].bincount(minlength=10)
    assert counts.min() >= 9
    assert counts.max() <= 10
    assert torch.equal(held_out, stratified_split(labels, range(95), seed=0)[1])
    assert not torch.equal(held_out, stratified_split(labels, range(95), seed=1)[1])


def test_a_part_has_its_images_and_labels_and_takes_no_memory_for_them():
    dataset = ImageBatches(torch.arange(10).view(10, 1, 1, 1), torch.arange(10))
    part = dataset.part(torch.tensor([2, 3, 5, 8]))
    assert len(part) == 4
    assert part[torch.arange(4)][0].flatten().tolist() == part.labels.tolist() == [2, 3, 5, 8]
    within = part.part(torch.tensor([3, 0]))
    images, labels = within[torch.tensor([1, 0, 1])]
    assert images.flatten().tolist() == labels.tolist() == [2, 8, 2]
    assert within.stored.data_ptr() == dataset.stored.data_ptr()
    moved = within.to(torch.device("cpu"), dataset.stored)
    assert moved[torch.tensor([0])][1].tolist() == [8]


def test_reading_is_told_in_images():
    told = []
    dataset = ImageBatches(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.arange(10), after_reading=told.append)
    dataset.part(torch.arange(5))[torch.tensor([1, 2])]
    assert told == [2]
    copy = dataset.to(torch.device("cpu"))
    assert told == [2, 10]
    assert torch.equal(copy.stored, dataset.stored)
    assert copy.stored.data_ptr() != dataset.stored.data_ptr()


def test_folds_are_disjoint_stratified_and_together_everything():
    labels = torch.arange(10).repeat_interleave(40)
    folds = [stratified_split(labels, range(start, start + 80), 3) for start in range(0, 400, 80)]
    assert sorted(torch.cat([held_out for _, held_out in folds]).tolist()) == list(range(400))
    for kept, held_out in folds:
        assert labels[held_out].bincount().tolist() == [8] * 10
        assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(400))


def test_a_fold_beyond_the_last_is_refused():
    datamodule = FashionMNISTSampleDataModule(holdout=200, fold=5)
    with pytest.raises(
        ValueError, match=r"data\.fold=5 is too high: 1000 training images have 5 folds of data\.holdout=200"
    ):
        datamodule.setup()


def test_parts_need_not_be_of_one_size():
    parts = []
    for fold in range(3):
        datamodule = FashionMNISTSampleDataModule(folds=3, fold=fold)
        datamodule.setup()
        parts.append(datamodule.splits["val"].rows)
        assert max(datamodule.splits["val"].labels.bincount()) - min(datamodule.splits["val"].labels.bincount()) <= 1
        assert len(datamodule.splits["train"]) + len(parts[-1]) == 1000
        assert not datamodule.validates_on_test_split
    assert [len(rows) for rows in parts] == [333, 333, 334]
    assert sorted(torch.cat(parts).tolist()) == list(range(1000))
    for words, message in (
        ({"fold": 3}, r"data\.fold=3 is too high: 1000 training images have 3 folds of data\.folds=3, and the first"),
        ({"holdout": 100}, r"data\.folds=3 takes the place of data\.holdout=100: set one"),
    ):
        with pytest.raises(ValueError, match=message):
            FashionMNISTSampleDataModule(folds=3, **words).setup()
