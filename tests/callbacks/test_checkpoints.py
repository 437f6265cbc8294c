import re

import pytest
import torch

from convnets.callbacks import CheckedCheckpointIO, CheckpointError, read_checkpoint


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


def test_no_flipped_bit_and_no_torn_file_is_read_as_something_else(tmp_path):
    """Also in the headers of the archive. What neither reader looks at, such as padding, may differ."""
    path = tmp_path / "last.ckpt"
    checkpoint = {"tensor": torch.arange(3), "convnets": {"format": 1}}
    CheckedCheckpointIO().save_checkpoint(checkpoint, path)
    whole = path.read_bytes()
    flipped = [
        whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        for place in range(len(whole))
        for bit in {place % 8, 4}  # the 4th of an entry's attributes says that it is a folder
    ]
    said = []
    for content in (*flipped, *(whole[:length] for length in range(0, len(whole), 7))):
        path.write_bytes(content)
        try:
            assert repr(read_checkpoint(path)) == repr(checkpoint)
        except CheckpointError as error:
            said.append(str(error))
    assert {re.search(r"last\.ckpt (is not|holds more|was written)", text)[1] for text in said} == {"is not"}
    assert len(said) > len(whole) / 2
