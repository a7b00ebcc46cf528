import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from common.errors import UserError
from common.plain_files import HoldsObjects, load_plain
from tests.faults.harness import Bomb

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2])}


def refusal(path: Path, kind: type[UserError] = UserError) -> str:
    """The message, one plain sentence that begins with the file."""
    with pytest.raises(kind) as error:
        load_plain(path)
    message = str(error.value)
    assert type(error.value) is kind and message.startswith(f"{path} cannot be read as a checkpoint: ")
    assert message.isprintable() and message.endswith(".") and ". " not in message
    return message


def test_the_content_of_a_file_tells_its_format_not_its_name(tmp_path):
    for name in ("a.safetensors", "b.pt", "c"):
        save_file(TENSORS, tmp_path / name)
    for name, zipped in (("d.safetensors", True), ("e.safetensors", False), ("f.pth", False), ("g.pt", True)):
        torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    for path in tmp_path.iterdir():
        loaded = load_plain(path)
        assert loaded.keys() == TENSORS.keys(), path
        assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items()), path


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_damaged_files_and_other_ones_are_refused(tmp_path, name):
    torch.save(TENSORS, tmp_path / "good.pt")
    of_torch, of_safetensors = (tmp_path / "good.pt").read_bytes(), save(TENSORS)
    numbers = TENSORS["a"].numpy().tobytes()
    assert numbers in of_torch
    for content, said in (
        (of_safetensors[:-4], "SafetensorError: "),
        (of_safetensors[:40], "SafetensorError: "),
        (of_torch[:-200], "RuntimeError: "),
        (of_torch.replace(numbers, bytes(len(numbers))), "ValueError: "),
        (b"not tensors", "UnpicklingError: "),
        (b"", "(EOFError)."),
    ):
        (tmp_path / name).write_bytes(content)
        message = refusal(tmp_path / name)
        assert "it is damaged, or not a file of torch or safetensors (" in message and said in message


def test_what_holds_objects_is_refused_with_their_kind_and_nothing_is_run(tmp_path):
    for zipped in (True, False):
        for content, kind in (
            (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
            ({"state_dict": TENSORS, "mean": np.zeros(3)}, r"numpy\.\w+\.multiarray\._reconstruct"),
            ({"model": Bomb(tmp_path / "exploded")}, r"_?io\.open"),
        ):
            torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
            message = refusal(tmp_path / "x.pt", HoldsObjects)
            assert re.search(rf"it holds objects of Python \({kind}\), which are never loaded\.$", message)
    with warnings.catch_warnings(action="ignore"):  # scripts are deprecated
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "x.pt")
    assert "(a TorchScript program)" in refusal(tmp_path / "x.pt", HoldsObjects)
    assert not (tmp_path / "exploded").exists()


def test_memory_that_does_not_suffice_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    torch.save(TENSORS, tmp_path / "x.pt")
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="not enough memory"):
        load_plain(tmp_path / "x.pt")
