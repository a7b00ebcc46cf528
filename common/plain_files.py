"""Tensors and plain values from files of torch and of safetensors; nothing that a file holds is ever executed."""

import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from common.errors import UserError, lacks_memory

# What reading a file that is no checkpoint, or a damaged one, ends with.
UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, SafetensorError, EOFError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
)


class HoldsObjects(UserError):
    """A file holds objects of Python, such as a pickled network, which only code of the file could make."""


def load_plain(path: Path) -> object:
    """Tensors and plain containers from a file of torch or safetensors, which its content tells, not its name.

    Checksums are compared if the format has them, so that a bit that flipped on the disk is not taken for
    a weight.

    Raises:
        HoldsObjects: it holds more than tensors and plain values.
        UserError: it does not exist or cannot be read; why, in a sentence.
    """
    if not path.is_file():
        raise UserError(f"{path} {'is no file' if os.path.lexists(path) else 'does not exist'}.")
    try:
        # Opened here, since torch takes any file whose name ends in .safetensors for one.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            if file.read(9)[8:] == b"{":  # a safetensors file: the length of its header in 8 bytes, then the header
                return load_file(path)
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as parts:
                    damaged = parts.testzip()
                if damaged:
                    raise ValueError(f"{damaged} in it is damaged")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        refused = re.search(r"GLOBAL ([\w.]+\w)|TorchScript", str(error))
        if refused:
            raise HoldsObjects(
                f"{path} cannot be read as a checkpoint: it holds objects of Python "
                f"({refused[1] or 'a TorchScript program'}), which are never loaded."
            ) from None
        if lacks_memory(error):
            raise
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is damaged, or not a file of torch or safetensors "
            f"({_first_sentence(error)})."
        ) from None


def _first_sentence(error: BaseException) -> str:
    """What kind of error it is and the first sentence of it, without the advice and the escape codes of torch."""
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    first = re.split(r"(?<=\w)\.\s|\n|\x1b", message)[0].removesuffix(".")[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
