import pytest
import torch

from convnets.callbacks import CheckedCheckpointIO


def test_a_checkpoint_is_written_whole(tmp_path):
    CheckedCheckpointIO().save_checkpoint({"a": torch.arange(3)}, tmp_path / "new" / "last.ckpt")
    assert torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)["a"].tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


def test_a_write_that_fails_leaves_the_previous_one(tmp_path, monkeypatch):
    writer = CheckedCheckpointIO()
    writer.save_checkpoint({"a": 1}, tmp_path / "last.ckpt")

    def fail(checkpoint, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"a": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"a": 1}
