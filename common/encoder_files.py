"""The weights of an encoder from a file as people have them: found by name, under whatever prefix."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from common.encoders import EncoderConstants, are_constants, for_bands
from common.errors import UserError
from common.plain_files import HoldsObjects, load_plain
from common.schema import misfit
from common.text import count

COUNTER = "num_batches_tracked"  # which files of old versions of torch lack, and which only counts batches
WHOSE_NAMES = "Give the --encoder whose tensors have the names and shapes of the file."


class EncoderFile(NamedTuple):
    """What a file has for an encoder.

    ``state`` is a state dict to load strictly, floating-point numbers in the encoder's precision; ``left_out`` names
    the other parts of the file, such as ``fc (2 tensors)``; ``constants`` are those that a checkpoint of this project
    was trained with, None for other files.
    """

    state: dict[str, torch.Tensor]
    left_out: list[str]
    constants: EncoderConstants | None


def read_encoder_file(path: Path, encoder: nn.Module) -> EncoderFile:
    """The tensors of an encoder from a file of torch or safetensors, and what else the file holds.

    The file is a state dict, or a dict with one in an entry such as ``state_dict`` or ``model``. Its names are those
    of the encoder after one prefix (``module.``, ``model.encoder.``, ...); classifier and decoder are left out. A first
    layer of three bands is adapted to those of the encoder.

    Raises:
        UserError: the file cannot be read, the tensors of this encoder are not in it or not finite, it is of a larger
            encoder, or two networks in it fit.
    """
    saved, made_with, constants = _saved_tensors(path)
    wanted = encoder.state_dict()
    required = [name for name in wanted if not name.endswith(COUNTER)]
    found = _by_prefix(saved, {_short(name).replace(".", "_"): name for name in wanted})
    fitting = [prefix for prefix, keys in found.items() if keys.keys() >= set(required)]
    if len(fitting) > 1:
        raise UserError(
            f"{path} holds {len(fitting)} networks of this encoder, under {' and '.join(map(repr, fitting))}. "
            "Save the one that you mean in a file of its own."
        )
    prefix = fitting[0] if fitting else max(found, key=lambda prefix: len(found[prefix]), default="")
    keys = found[prefix]
    saved |= {keys[name]: t for name, t in for_bands({n: saved[key] for n, key in keys.items()}, wanted).items()}
    used = set(keys.values())
    others = [key for key in saved if key not in used]
    parts = {_short(name).split(".")[0] for name in wanted}
    larger = [key for key in others if _is_inside(key, prefix, parts)]
    lacking = [name for name in required if name not in keys]
    shapes = [name for name, key in keys.items() if saved[key].shape != wanted[name].shape]
    problem = None
    if lacking:
        first = others[0] if others else "no other"
        problem = f"lacks {len(lacking)} of its {len(required)} tensors (first: {lacking[0]}; the file has {first})"
    elif shapes:
        shape, expected = tuple(saved[keys[shapes[0]]].shape), tuple(wanted[shapes[0]].shape)
        problem = f"has {count(shapes, 'tensor')} of other shapes (first: {shapes[0]} {shape}, expected {expected})"
    elif larger:
        problem = f"is of a larger encoder, with {count(larger, 'tensor')} more (first: {larger[0]})"
    if problem:
        remedy = f"It was made with {made_with}." if made_with else WHOSE_NAMES
        raise UserError(f"{path} does not fit this encoder: it {problem}. {remedy}")
    for name in required:
        number, expected = saved[keys[name]].dtype, wanted[name].dtype
        if number.is_floating_point != expected.is_floating_point:
            raise UserError(f"{path}: {name} holds {number}, expected {expected}.")
    state = {
        name: saved[keys[name]].detach().to(tensor.dtype) if name in keys else torch.zeros_like(tensor)
        for name, tensor in wanted.items()
    }
    infinite = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if infinite:
        raise UserError(f"{path}: {count(infinite, 'tensor')} not finite (first: {infinite[0]}).")
    return EncoderFile(state, _count_parts(others, prefix), constants)


def _saved_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str, EncoderConstants | None]:
    """The tensors of a file by name, those of an entry after the entry's; flags and constants of a run of ours."""
    try:
        content = load_plain(path)
    except HoldsObjects as error:
        raise UserError(
            f"{error} Load it with the code that made it, and save its tensors alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except UserError as error:
        raise UserError(f"{error} Give imagenet, none, or a file of an encoder's tensors.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict, but {type(content).__name__}.")
    metadata = content.get("metadata")  # of a checkpoint of this project
    known = metadata if isinstance(metadata, dict) else {}
    made_with = " ".join(f"--{key} {known[key]}" for key in ("arch", "encoder") if key in known)
    constants = None
    if made_with:
        problem = misfit(known, {"encoder_constants?": are_constants})
        if problem:
            raise UserError(f"{path} is a damaged checkpoint: {problem}.")
        constants = EncoderConstants.read(known.get("encoder_constants"))
    saved = {}
    for name, entry in content.items():
        inner = {f".{key}": value for key, value in entry.items()} if isinstance(entry, dict) else {"": entry}
        saved |= {f"{name}{key}": value for key, value in inner.items() if _has_numbers(value)}
    return saved, made_with, constants


def _has_numbers(value: object) -> bool:
    """Whether it is a tensor with a number for each element: not sparse, and not the mere shape of one."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def _short(name: str) -> str:
    """A name in an encoder without the modules into which smp and timm put a network to have its features."""
    return re.sub(r"^(model\.)+(body\.)?", "", name)


def _by_prefix(saved: Iterable[str], names: dict[str, str]) -> dict[str, dict[str, str]]:
    """For each prefix in a file, the tensors behind it that the encoder has, by the encoder's name.

    ``names`` gives that by the name with _ for dots, since timm joins names by _ when it cuts a network into features.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for key in saved:
        # As torchvision and smp read the densenets of torchvision, whose files have names that Python forbids today.
        parts = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key).split(".")
        for start in range(len(parts)):
            name = names.get("_".join(parts[start:]))
            if name is not None:
                found[".".join(parts[:start])][name] = key
    return found


def _is_inside(key: str, prefix: str, parts: set[str]) -> bool:
    """Whether a tensor of a file lies below a prefix in one of these parts of a network, such as ``layer1``."""
    if prefix and not key.startswith(f"{prefix}."):
        return False
    steps = key.removeprefix(f"{prefix}.").split(".")
    return any("_".join(steps[:end]) in parts for end in range(1, len(steps)))


def _count_parts(keys: list[str], prefix: str) -> list[str]:
    """The parts of a network in which tensors lie, and how many in each: ``decoder (44 tensors)``."""
    parts = defaultdict(list)
    for key in keys:
        steps = key.split(".")
        shared = len(os.path.commonprefix([steps[:-1], prefix.split(".")]))
        parts[steps[shared]].append(key)
    return [f"{part} ({count(inside, 'tensor')})" for part, inside in parts.items()]
