"""Checkpoints: a network's tensors and what is known of them, saved and read back with every check."""

import hashlib
import io
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.bands import BANDS_FORM, RGB, named, same_bands
from common.encoders import EncoderConstants, are_constants
from common.errors import UserError
from common.inputs import Command, Input
from common.models import GIVE_ITS_NETWORK, Architecture, build_model, load_strictly
from common.plain_files import load_plain
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional
from common.taxonomy import OPENEARTHMAP, Taxonomy, taxonomy_from_json
from common.tiles import TileSet


def digest_tensors(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a state dict's names and values, the same wherever and under whatever name it is saved."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_command(value: object) -> bool:
    try:
        return is_text(value) and bool(shlex.split(value))
    except ValueError:  # a quotation without end
        return False


# The form of a checkpoint's metadata, by key.
METADATA = {
    **dict.fromkeys(("stage", "arch", "encoder"), is_text),
    **dict.fromkeys(("seed", "step", "iterations", "crops", "cumulative_steps"), is_count),
    **dict.fromkeys(("train", "val"), {"digest": is_text}),
    "taxonomy": is_object,
    "stretch": optional(is_object),
    "ancestors": list_of({"stage": is_text, "steps": is_count, "crops": is_count}),
    "command": _is_command,
}
# Those that a checkpoint needs to be scored.
METADATA_TO_SCORE = tuple(key for key in METADATA if key not in ("train", "crops", "ancestors"))
# What is known of the images that a network is made for, as TileSet.images has it.
IMAGES_FORM = {
    "bands": optional(BANDS_FORM),
    **dict.fromkeys(("dtypes", "colors"), optional(list_of(is_text))),
    "gsd": optional(lambda value: is_number(value) and value > 0),
    "alpha?": optional(lambda value: isinstance(value, bool)),
}
# Those that checkpoints of before version 0.10, and of the last before 0.13, do not have.
LATER_METADATA = {
    "decoder_channels": optional(list_of(is_count)),
    "encoder_constants": are_constants,
    "images": optional(IMAGES_FORM),
}


class UnfinishedRun(UserError):
    """The run of a checkpoint has not come to its end."""


def checkpoint_bytes(state: dict[str, torch.Tensor], metadata: dict, training: dict | None = None) -> bytes:
    """The content of a checkpoint's file; see Checkpoint."""
    content = io.BytesIO()
    torch.save({"model": state, "metadata": metadata, "training": training}, content)
    return content.getvalue()


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors and what is known of them.

    ``metadata``: stage, seed, step, arch, encoder, decoder_channels, encoder_constants, taxonomy, stretch, images,
    recipe, settings, ancestors, versions. ``training``: of a run that is not finished the optimizer, its weights
    (those of the network are their average) and the history, else None.
    """

    source: Input
    state: dict[str, torch.Tensor]
    metadata: dict
    training: dict | None = None

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def digest(self) -> str:
        return digest_tensors(self.state)

    @property
    def taxonomy(self) -> Taxonomy:
        return taxonomy_from_json(self.metadata["taxonomy"], self.path)

    @property
    def bands(self) -> list[int] | None:
        """The numbers of the bands that its network sees; None where they are red, green and blue of some images."""
        return (self.metadata.get("images") or {}).get("bands")

    @property
    def command(self) -> Command:
        """The command of its run."""
        return Command.read(self.metadata["command"])

    @classmethod
    def load(cls, source: Input) -> "Checkpoint":
        """Read a checkpoint of this project.

        Raises:
            UserError: it is missing or broken, holds a number that is not finite, or metadata of another form than
                METADATA.
        """
        if not os.path.lexists(source):
            raise source.missing()
        try:
            return cls._read(source)
        except UserError as error:
            raise source.unusable(str(error).removesuffix(".")) from None

    @classmethod
    def _read(cls, source: Input) -> "Checkpoint":
        content: Any = load_plain(source.path)
        try:
            state, metadata, training = dict(content["model"]), dict(content["metadata"]), content["training"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{source} is not a checkpoint of this project") from None
        problem = misfit(metadata, {f"{key}?": form for key, form in (METADATA | LATER_METADATA).items()})
        if not problem and not (isinstance(training, dict | None) and all(map(torch.is_tensor, state.values()))):
            problem = "it holds other things than tensors"
        if problem:
            raise UserError(f"{source} is not a checkpoint of this project: {problem}")
        infinite = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
        if infinite:
            raise UserError(f"{source}: {len(infinite)} tensors are not finite (first: {infinite[0]})")
        if "taxonomy" in metadata:
            taxonomy_from_json(metadata["taxonomy"], source.path)
        return cls(source, state, metadata, training)

    def require(self, keys: Iterable[str]) -> "Checkpoint":
        """Refuse a checkpoint whose metadata lack one of ``keys``."""
        lacking = [key for key in keys if key not in self.metadata]
        if lacking:
            raise self.source.unusable(f"{self.path} does not say its {', '.join(lacking)}")
        return self

    def require_bands_of(self, tiles: TileSet) -> "Checkpoint":
        """Refuse a checkpoint whose network sees other bands than the images of a tile set have."""
        if not same_bands(self.bands, tiles.manifest.get("bands")):
            raise self.source.unusable(
                f"{self.path} was trained on the bands {named(self.bands or RGB)}, but {tiles.path} has the bands "
                f"{named(tiles.bands)}"
            )
        return self

    def require_run(self, stage: str, seed: int) -> "Checkpoint":
        """Refuse a checkpoint of another run, or of one that has not come to its end.

        Raises:
            UnfinishedRun: the run has not reached its last step.
            UserError: it is of another stage or seed.
        """
        run = (self.metadata["stage"], self.metadata["seed"])
        if run != (stage, seed):
            raise self.source.unusable(
                f"{self.path} is of {run[0]} with seed {run[1]}, expected {stage} with seed {seed}"
            )
        if self.training is not None:
            raise UnfinishedRun(
                f"{self.path} is of an unfinished run, at step {self.metadata['step']} of "
                f"{self.metadata['iterations']}. Finish it: {self.command.resumed()}"
            )
        return self

    def build(self) -> nn.Module:
        """The network with these tensors, every one of them loaded."""
        try:
            return self._load_into(Architecture.read(self.metadata))
        except UserError as error:
            raise self.source.unusable(str(error).removesuffix(".")) from None

    def load_into(self, architecture: Architecture) -> nn.Module:
        """A network of the given architecture with these tensors. Raises UserError if they do not fit it."""
        try:
            return self._load_into(architecture)
        except UserError as error:
            raise UserError(f"{error} {GIVE_ITS_NETWORK}") from None

    def _load_into(self, architecture: Architecture) -> nn.Module:
        constants = EncoderConstants.read(self.metadata.get("encoder_constants"))
        try:
            model = build_model(architecture, self.taxonomy.num_classes, constants=constants)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        try:
            load_strictly(model, self.state)
        except UserError as error:
            raise UserError(f"{self.path} {error}") from None
        return model


def finished_checkpoint(source: Input, stage: str, seed: int) -> Checkpoint:
    """The checkpoint of a finished run of ``stage`` with ``seed``. Raises UserError if it is something else."""
    return Checkpoint.load(source).require(METADATA).require_run(stage, seed)


def load_teacher(source: Input, seed: int) -> Checkpoint:
    """The finished teacher checkpoint. Raises UserError if it has other classes or bands than OpenEarthMap."""
    teacher = finished_checkpoint(source, "teacher", seed)
    if teacher.bands is not None and len(teacher.bands) != len(RGB):
        raise source.unusable(
            f"{source} was trained on the bands {named(teacher.bands)}, expected those of OpenEarthMap"
        )
    if teacher.taxonomy != OPENEARTHMAP:
        raise source.unusable(f"{source} was not trained in the OpenEarthMap classes")
    return teacher


def lineage(checkpoint: Checkpoint) -> list[dict]:
    """The training that lies behind a checkpoint, oldest first: stage, steps, crops and digest of each run."""
    metadata = checkpoint.metadata
    run = {"stage": metadata["stage"], "steps": metadata["step"], "crops": metadata["crops"]}
    return [*metadata["ancestors"], {**run, "digest": checkpoint.digest}]


def open_to_score(source: Input, stage: str, seed: int, tiles: TileSet) -> tuple[Checkpoint, nn.Module]:
    """A checkpoint that may be scored on ``tiles``, and its network.

    Args:
        source: the checkpoint.
        stage, seed: the run it must be of.
        tiles: the split it is scored on.

    Raises:
        UnfinishedRun: the run has not reached its last step.
        UserError: the file is missing or broken, is of another run or network, or was trained on other bands, or under
            another taxonomy, scaling or split, so that its scores would not be comparable or its training tiles may be
            here.
    """
    checkpoint = Checkpoint.load(source).require(METADATA_TO_SCORE)
    checkpoint = replace(checkpoint, source=replace(source, made_by=checkpoint.command)).require_run(stage, seed)
    checkpoint.require_bands_of(tiles)
    metadata, classes = checkpoint.metadata, checkpoint.taxonomy.classes
    problem = None
    if checkpoint.taxonomy != tiles.taxonomy:
        problem = (
            f"was trained for the classes {', '.join(classes)}, but {tiles.path} has "
            f"{', '.join(tiles.taxonomy.classes)} (or other colours or OpenEarthMap rows)"
        )
    elif metadata["stretch"] != tiles.stretch:
        problem = f"was trained on images scaled to 8 bit otherwise than those of {tiles.path}"
    elif tiles.split == "val" and metadata["val"]["digest"] != tiles.digest:
        problem = (
            f"was trained beside another val split than {tiles.path}, whose tiles may be among those it was trained on"
        )
    if problem:
        raise checkpoint.source.unusable(f"{source} {problem}")
    return checkpoint, checkpoint.build()
