"""Networks from segmentation-models-pytorch, and the checkpoints that hold them."""

import hashlib
import io
import logging
import os
import pickle
import shlex
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn

from common.cli import UserError
from common.files import sha256_file, write_files
from common.taxonomy import IGNORE_INDEX, OPENEARTHMAP, Taxonomy, taxonomy_from_json
from common.tiles import TileSet

# What reading a file that is no checkpoint, or a damaged one, ends with.
UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
VOID_LOGIT = -1e4  # its softmax is 0 in every precision, and unlike -inf it leaves no NaN in products


class SilenceVoid(nn.Module):
    """Fixes output IGNORE_INDEX at VOID_LOGIT, so that it is neither trained nor ever predicted."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same shape."""
        logits = logits.clone()
        logits[:, IGNORE_INDEX] = VOID_LOGIT
        return logits


def build_model(arch: str, encoder: str, num_classes: int, encoder_weights: str = "none") -> nn.Module:
    """A network with an output for each class id, of which that of void is silent.

    Args:
        arch, encoder: names in segmentation-models-pytorch, such as unet and efficientnet-b4.
        num_classes: number of class ids, void included.
        encoder_weights: none (random), imagenet (downloaded by the library), or the path of a state dict.

    Raises:
        UserError: a name that the library does not know, weights that cannot be had or do not fit.
    """
    source = "imagenet" if encoder_weights == "imagenet" else None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the failure itself is told below
    try:
        with warnings.catch_warnings(action="ignore"):
            model = smp.create_model(arch, encoder, encoder_weights=source, classes=num_classes)
    except (KeyError, ValueError) as error:
        raise UserError(f"--arch {arch} --encoder {encoder}: {error}") from None
    except OSError as error:
        raise UserError(
            f"--encoder-weights imagenet: the weights of {encoder} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). Without a connection: "
            "--encoder-weights none starts from random weights, --encoder-weights FILE from a state dict that you "
            "saved with torch.save(model.encoder.state_dict(), FILE) where there is one."
        ) from None
    if encoder_weights not in ("imagenet", "none"):
        path = Path(encoder_weights)
        state = load_plain(path, "give imagenet, none, or the path of an encoder's state dict to --encoder-weights")
        load_strictly(model.encoder, state, f"--encoder-weights {path}")
    model.segmentation_head = nn.Sequential(model.segmentation_head, SilenceVoid())
    return model


def load_plain(path: Path, remedy: str):
    """Tensors and plain containers from a file, executing nothing in it; UserError where that cannot be done.

    Checksums are compared, so that a bit that was turned over on the disk is not taken for a weight.
    """
    if not path.is_file():
        raise UserError(f"{path} {'is no file' if os.path.lexists(path) else 'does not exist'}. Remedy: {remedy}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                damaged = parts.testzip()
            if damaged:
                raise ValueError(f"{damaged} in it is damaged.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint: {reason} Remedy: {remedy}") from None


def load_strictly(module: nn.Module, state, where: str, remedy: str = "") -> None:
    """Load a state dict of exactly this module's tensors; UserError names the first that differs, and the remedy."""
    wanted = module.state_dict()
    remedy = remedy or "Give the --arch and --encoder it was made with."
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{where}: expected a state dict, found {type(state).__name__}. {remedy}")
    missing, stray = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted if k in state and getattr(state[k], "shape", None) != wanted[k].shape]
    if missing or stray or shapes:
        first = (missing or stray or shapes)[0]
        raise UserError(
            f"{where} does not fit this network: {len(missing)} tensors are missing, {len(stray)} are unknown and "
            f"{len(shapes)} have another shape (first: {first}). {remedy}"
        )
    module.load_state_dict(state, strict=True)


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


class EncoderWeights:
    """Start from an encoder's weights, or from none; the rest of the network is random."""

    ancestors: tuple[dict, ...] = ()

    def __init__(self, source: str):
        self.source = source

    def build(self, arch: str, encoder: str, taxonomy: Taxonomy) -> nn.Module:
        return build_model(arch, encoder, taxonomy.num_classes, self.source)

    def describe(self) -> dict:
        file = {} if self.source in ("imagenet", "none") else {"sha256": sha256_file(Path(self.source))}
        return {"kind": "encoder", "weights": self.source, **file}


class StageWeights:
    """Start from every tensor of an earlier stage's last checkpoint.

    Raises:
        UserError: the checkpoint is missing, broken, of an unfinished run, another seed, another split (what it
            was trained on could be in ``val`` or test here), or of another network or taxonomy.
    """

    def __init__(self, path: Path, stage: str, seed: int, val: TileSet, remedy: str):
        self.checkpoint = finished_checkpoint(path, stage, seed, remedy)
        known = self.checkpoint.metadata
        if known["val"]["digest"] != val.digest or known["stretch"] != val.stretch:
            raise UserError(
                f"{path} was trained under another split than that of {val.path}. Train it again: {remedy} --overwrite"
            )
        self.ancestors = tuple(lineage(self.checkpoint))

    def build(self, arch: str, encoder: str, taxonomy: Taxonomy) -> nn.Module:
        found = self.checkpoint
        if found.taxonomy != taxonomy:
            raise UserError(
                f"{found.path} was trained for {', '.join(found.taxonomy.classes)}, not for this taxonomy. Train it "
                f"again: {found.remedy} --overwrite"
            )
        return found.load_into(arch, encoder)

    def describe(self) -> dict:
        return {"kind": "stage", "stage": self.checkpoint.metadata["stage"], "digest": self.checkpoint.digest}


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
