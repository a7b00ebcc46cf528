"""Checkpoints: a network's tensors and what is known of them, saved and read back with every check."""

import hashlib
import io
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.files import write_files
from common.models import build_model, load_plain, load_strictly
from common.taxonomy import OPENEARTHMAP, Taxonomy, taxonomy_from_json
from common.tiles import TileSet


def digest_tensors(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a state dict's names and values, the same wherever and under whatever name it is saved."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _is(*kinds) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _has_digest(value) -> bool:
    return isinstance(value, dict) and isinstance(value.get("digest"), str)


def _is_lineage(value) -> bool:
    kinds = {"stage": str, "steps": int, "crops": int}
    return isinstance(value, list) and all(
        isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in kinds.items()) for run in value
    )


def _is_command(value) -> bool:
    try:
        return bool(shlex.split(value))
    except (ValueError, AttributeError):  # a quotation without end; no text
        return False


# What is asked of a checkpoint's metadata before they are used, by key.
METADATA = {
    **dict.fromkeys(("stage", "arch", "encoder"), _is(str)),
    **dict.fromkeys(("seed", "step", "iterations", "crops", "cumulative_steps"), _is(int)),
    **dict.fromkeys(("train", "val"), _has_digest),
    "taxonomy": _is(dict),
    "stretch": _is(dict, type(None)),
    "ancestors": _is_lineage,
    "command": _is_command,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors and what is known of them.

    ``metadata``: stage, seed, step, arch, encoder, taxonomy, stretch, recipe, settings, ancestors, versions.
    ``training``: the optimizer and the history of a run that is not finished, else None. ``remedy`` is for messages.
    """

    path: Path
    state: dict[str, torch.Tensor]
    metadata: dict
    training: dict | None = None
    remedy: str = ""

    @property
    def digest(self) -> str:
        return digest_tensors(self.state)

    @property
    def taxonomy(self) -> Taxonomy:
        return taxonomy_from_json(self.metadata["taxonomy"], self.path)

    def to_bytes(self) -> bytes:
        """The content of the checkpoint's file."""
        content = io.BytesIO()
        torch.save({"model": self.state, "metadata": self.metadata, "training": self.training}, content)
        return content.getvalue()

    def save(self) -> None:
        """Write to ``path`` so that a reader never sees half of it."""
        write_files({self.path: self.to_bytes()})

    @classmethod
    def load(cls, path: Path, remedy: str) -> "Checkpoint":
        """Read a checkpoint of this project.

        Raises:
            UserError: it is missing or broken, holds a number that is not finite, or metadata of another form than
                METADATA; the message ends in ``remedy``.
        """
        content = load_plain(path, remedy)
        try:
            state, metadata, training = dict(content["model"]), dict(content["metadata"]), content["training"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is not a checkpoint of this project. Remedy: {remedy}") from None
        wrong = [key for key, is_sound in METADATA.items() if key in metadata and not is_sound(metadata[key])]
        if wrong or not isinstance(training, dict | None) or not all(map(torch.is_tensor, state.values())):
            what = f"its {wrong[0]} is {metadata[wrong[0]]!r}" if wrong else "it holds other things than tensors"
            raise UserError(f"{path} is not a checkpoint of this project: {what}. Remedy: {remedy}")
        infinite = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
        if infinite:
            raise UserError(f"{path}: {len(infinite)} tensors are not finite (first: {infinite[0]}). Remedy: {remedy}")
        found = cls(path, state, metadata, training, remedy)
        if "taxonomy" in metadata:
            try:
                found.taxonomy  # noqa: B018  is parsed
            except UserError as problem:
                raise UserError(f"{problem} Remedy: {remedy}") from None
        return found

    def require(self, keys) -> "Checkpoint":
        """Refuse a checkpoint whose metadata lack one of ``keys``."""
        lacking = [key for key in keys if key not in self.metadata]
        if lacking:
            raise UserError(f"{self.path} does not say its {', '.join(lacking)}. Train it again: {self.remedy}")
        return self

    def build(self) -> nn.Module:
        """The network with these tensors, every one of them loaded."""
        return self.load_into(self.metadata["arch"], self.metadata["encoder"], f"Remedy: {self.remedy}")

    def load_into(self, arch: str, encoder: str, remedy: str = "") -> nn.Module:
        """A network of the architecture that is asked for, with these tensors; UserError where they do not fit it."""
        try:
            model = build_model(arch, encoder, self.taxonomy.num_classes)
        except UserError as problem:
            raise UserError(f"{self.path}: {problem} {remedy}") from None
        load_strictly(model, self.state, str(self.path), remedy)
        return model


def finished_checkpoint(path: Path, stage: str, seed: int, remedy: str) -> Checkpoint:
    """The checkpoint of a finished run of ``stage`` with ``seed``; UserError where it is something else."""
    found = Checkpoint.load(path, remedy).require(METADATA)
    known = found.metadata
    if (known.get("stage"), known.get("seed")) != (stage, seed):
        raise UserError(
            f"{path} is of {known.get('stage')} with seed {known.get('seed')}, expected {stage} with seed {seed}. "
            f"Remedy: {remedy}"
        )
    if found.training is not None:
        raise UserError(
            f"{path} is of a run that stopped at step {known['step']} of {known['iterations']}. "
            f"Finish it: {rerun_command(known['command'], '--resume')}"
        )
    return found


def rerun_command(command: str, flag: str) -> str:
    """The command of an earlier run with ``flag`` (--resume or --overwrite), for messages."""
    return shlex.join([word for word in shlex.split(command) if word not in ("--overwrite", "--resume")] + [flag])


def load_teacher(path: Path, seed: int, remedy: str) -> Checkpoint:
    """The finished teacher checkpoint; UserError where it is none, or was not trained in OpenEarthMap classes."""
    found = finished_checkpoint(path, "teacher", seed, remedy)
    if found.taxonomy != OPENEARTHMAP:
        raise UserError(f"{path} was not trained in the OpenEarthMap classes. Remedy: {remedy} --overwrite")
    return found


def lineage(checkpoint: Checkpoint) -> list[dict]:
    """The training that lies behind a checkpoint, oldest first: stage, steps, crops and digest of each run."""
    known = checkpoint.metadata
    return [
        *known["ancestors"],
        {"stage": known["stage"], "steps": known["step"], "crops": known["crops"], "digest": checkpoint.digest},
    ]


METADATA_TO_SCORE = (
    "stage",
    "seed",
    "step",
    "iterations",
    "cumulative_steps",
    "arch",
    "encoder",
    "taxonomy",
    "stretch",
    "val",
    "command",
)


class UnfinishedRun(UserError):
    """The run of a checkpoint has not come to its end."""


def open_to_score(
    path: Path, stage: str, seed: int, tiles: TileSet, command: str
) -> tuple[Checkpoint, torch.nn.Module]:
    """A checkpoint that may be scored on ``tiles``, and its network.

    Args:
        path: the checkpoint.
        stage, seed: the run it must be of.
        tiles: the split it is scored on.
        command: trains this stage and seed, for the messages.

    Raises:
        UnfinishedRun: the run has not reached its last step.
        UserError: the file is missing or broken, is of another run or network, or was trained under another
            taxonomy, scaling or split, so that its scores would not be comparable or its training tiles may be here.
    """
    remedy = f"{command} --overwrite"
    found = Checkpoint.load(path, remedy).require(METADATA_TO_SCORE)
    known = found.metadata
    remedy = rerun_command(known["command"], "--overwrite")
    if (known["stage"], known["seed"]) != (stage, seed):
        raise UserError(
            f"{path} is of {known['stage']} seed {known['seed']}, expected {stage} seed {seed}. "
            f"Train it again: {remedy}"
        )
    if found.training is not None:
        raise UnfinishedRun(
            f"{path} is of an unfinished run, at step {known['step']} of {known['iterations']}. "
            f"Finish it: {rerun_command(known['command'], '--resume')}"
        )
    if found.taxonomy != tiles.taxonomy:
        raise UserError(
            f"{path} was trained for the classes {', '.join(found.taxonomy.classes)}, but {tiles.path} has "
            f"{', '.join(tiles.taxonomy.classes)} (or other colours or OpenEarthMap rows). Train it again: {remedy}"
        )
    if known["stretch"] != tiles.stretch:
        raise UserError(
            f"{path} was trained on images scaled to 8 bit otherwise than those of {tiles.path}. "
            f"Train it again: {remedy}"
        )
    if tiles.split == "val" and known["val"]["digest"] != tiles.digest:
        raise UserError(
            f"{path} was trained beside another val split than {tiles.path}, whose tiles may be among those it was "
            f"trained on. Train it again: {remedy}"
        )
    return found, found.build()
