"""The folder of a run: what is recorded of it, saving it, and finding what an interrupted run left there."""

import json
import platform
import resource
import subprocess
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torchvision

from common.checkpoints import Checkpoint, rerun_command
from common.errors import UserError
from common.samplers import TileDraws
from common.stages import ARM_OF
from common.text import warn
from common.tiles import TileSet
from training.engine.flags import SETTINGS
from training.engine.recipe import Recipe

CHECKPOINT_KEPT = "The last checkpoint is as it was."
RUN_FILES = ("last.pt", "best.pt", "run.json", "history.csv", "curves.png")  # without the first there is no run


def _record(recipe: Recipe, val: TileSet, args, draws: TileDraws, device) -> dict:
    """What is known of a run before it starts; run.json and the checkpoints' metadata grow from it."""
    ancestors = list(recipe.init.ancestors)
    return {
        "stage": recipe.stage,
        "compared_with": ARM_OF[recipe.stage].compared_with if recipe.stage in ARM_OF else None,
        "seed": args.seed,
        "command": args.command,
        "preset": args.preset,
        "arch": args.arch,
        "encoder": args.encoder,
        "iterations": args.iterations,
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "recipe": recipe.describe(),
        "taxonomy": recipe.tiles.taxonomy.to_json(),
        "stretch": recipe.tiles.stretch,
        "train": _tiles_facts(recipe.tiles) | {"tiles_without_label": draws.without_label},
        "val": _tiles_facts(val),
        "ancestors": ancestors,
        "checkpoints": 0,
        "best": None,
        "last": None,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "segmentation_models_pytorch": smp.__version__,
            "numpy": np.__version__,
        },
    }


def _tiles_facts(tiles: TileSet) -> dict:
    return {"path": str(tiles.path), "digest": tiles.digest, "tiles": len(tiles)}


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        shown = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return shown.stdout.strip() or None


def _peak_memory(device) -> dict:
    peak = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if device.type == "cuda":
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def _resumable(args, record: dict) -> Checkpoint | None:
    """The checkpoint to continue from, or None for a run from the start."""
    last = args.out_dir / "last.pt"
    there = [name for name in RUN_FILES if (args.out_dir / name).exists()]
    if there and not (args.resume or args.overwrite):
        raise UserError(
            f"{args.out_dir} holds {', '.join(there)} of an earlier run. Continue it with --resume, "
            "or replace it with --overwrite."
        )
    if not (args.resume and last.is_file()):
        return None
    found = Checkpoint.load(last, rerun_command(args.command, "--overwrite"))
    if found.training is None:
        raise UserError(f"{last} is of a finished run of {found.metadata['step']} steps. Replace it with --overwrite.")
    known, asked = found.metadata, json.loads(json.dumps(record))
    for key in ("stage", "seed", "settings", "taxonomy", "stretch", "recipe"):
        if known[key] != asked[key]:
            raise UserError(f"--resume: {last} has another {_difference(key, known[key], asked[key])}.")
    for key in ("train", "val"):
        if known[key]["digest"] != asked[key]["digest"]:
            raise UserError(f"--resume: {last} was trained with other {key} tiles than {asked[key]['path']}.")
    for key in ("device", "versions"):
        if known[key] != asked[key]:
            difference = _difference(key, known[key], asked[key]).replace("asked for", "here")
            warn(f"{last} was trained with another {difference}. To the last digit the run will not be the same.")
    return found


def _difference(key: str, known, asked) -> str:
    if isinstance(known, dict) and isinstance(asked, dict):
        for name in sorted(known.keys() | asked.keys()):
            if known.get(name) != asked.get(name):
                return _difference(f"{key}.{name}", known.get(name), asked.get(name))
    return f"{key}: {known} there, {asked} asked for"


def require_finite(state: dict[str, torch.Tensor], stage: str, step: int) -> None:
    """Refuse to save weights of which one is not a finite number."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{stage}: {len(bad)} tensors of the network are not finite after step {step} (first: {bad[0]}). "
            f"{CHECKPOINT_KEPT} Give a smaller --lr."
        )
