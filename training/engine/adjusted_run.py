"""The run of a rival that changes the network of a stage without a step of training.

It leaves last.pt, best.pt and run.json, as a training does, so that all that scores, compares and deploys checkpoints
takes it. There is no history.csv and no curves.png, since there was no training to tell of.
"""

import json
import time
from argparse import Namespace
from pathlib import Path

import torch

from common.checkpoints import Checkpoint, checkpoint_bytes
from common.device import place
from common.files import FolderKind, json_text, write_files
from common.inference import tile_confusions
from common.initial_weights import LogitAdjustment
from common.metrics import score
from common.models import Architecture
from common.stages import ARM_OF
from common.tiles import TileSet
from training.engine.run_folder import peak_memory, surroundings

ADJUSTED_RUN = FolderKind("run.json", lambda _: {"last.pt", "best.pt", "run.json"})


def require_of_one_run(last: Checkpoint, best: Checkpoint, train: TileSet) -> None:
    """Refuse checkpoints of two runs, or of a run on other tiles than those whose classes are counted.

    Raises:
        UserError: they are, or they do not say with which settings and recipe they were trained.
    """
    for checkpoint in (last, best):
        checkpoint.require(("settings", "recipe"))
        if checkpoint.metadata["train"]["digest"] != train.digest:
            raise checkpoint.source.unusable(f"{checkpoint.path} was trained on other tiles than {train.path} holds")
    if any(last.metadata[key] != best.metadata[key] for key in ("settings", "recipe")):
        raise last.source.unusable(f"{last.path} and {best.path.name} are of two runs")


def adjusted_record(init: LogitAdjustment, stage: str, recipe: dict, args: Namespace, device: torch.device) -> dict:
    """What is known of an adjusted checkpoint: the record of the one it was made of, but for what is new.

    Its own steps are none. Those of the training behind it are an ancestor's, and count in ``cumulative_steps``. What
    that training drew and how long it took stays in its own record.
    """
    start = init.checkpoint.metadata
    steps, crops = (sum(ancestor[key] for ancestor in init.ancestors) for key in ("steps", "crops"))
    kept = {key: value for key, value in start.items() if key not in ("drawn", "peak_gpu_memory_mb")}
    return kept | {
        "stage": stage,
        "compared_with": ARM_OF[stage].compared_with,
        "command": args.command,
        "recipe": recipe,
        "ancestors": list(init.ancestors),
        **dict.fromkeys(("step", "iterations", "crops"), 0),
        "cumulative_steps": steps,
        "cumulative_crops": crops,
        "checkpoints": 1,
        "finished": True,
        **surroundings(device),
    }


def write_adjusted_run(
    folder: Path,
    stage: str,
    last: LogitAdjustment,
    best: LogitAdjustment,
    val: TileSet,
    args: Namespace,
    device: torch.device,
) -> str:
    """Adjust two checkpoints of a run, score both on val, and write them with their run.json; what to say of it.

    The recipe of both is that of the run they are of, with another start: the last checkpoint of that run, adjusted.
    run.json says of the weights before the first step (``initial_digest``), as for every stage that starts from
    another, that they are that checkpoint's: to adjust them is what this run did.
    """
    began = time.perf_counter()
    recipe = {**last.checkpoint.metadata["recipe"], "init": last.describe()}
    states, records = {}, {}
    for which, init in (("last", last), ("best", best)):
        model = init.build(Architecture.read(init.checkpoint.metadata), val.taxonomy)
        states[which] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        confusions = tile_confusions(
            place(model, device),
            val.tiles,
            val.taxonomy.num_classes,
            device=device,
            workers=args.workers,
            desc=f"Scoring {which}.pt",
        )
        of_val = {"step": init.checkpoint.metadata["step"], **score(confusions.sum(axis=0), val.taxonomy)}
        records[which] = adjusted_record(init, stage, recipe, args, device) | {"last": of_val, "best": of_val}
    records["last"]["best"] = records["best"]["best"]
    seconds = {"training": 0.0, "validation": round(time.perf_counter() - began, 2)}
    contents: dict[Path, str | bytes] = {}
    for which, record in records.items():
        record |= {"seconds": seconds, **peak_memory(device)}
        contents[folder / f"{which}.pt"] = checkpoint_bytes(states[which], json.loads(json.dumps(record)))
    run_record = records["last"] | {"initial_digest": last.checkpoint.digest}
    write_files({**contents, folder / "run.json": json_text(run_record)})
    return (
        f"mIoU on val {records['last']['last']['mIoU']:.1%} (last.pt), {records['best']['best']['mIoU']:.1%} (best.pt)"
    )
