"""The folder of a run: its record, saving it, and finding what an interrupted run left there."""

import json
import platform
import resource
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

from common.artifacts import complete_run_record
from common.checkpoints import Checkpoint, checkpoint_bytes, digest_tensors
from common.device import Processes
from common.encoders import EncoderConstants
from common.errors import UserError
from common.figures import png_bytes
from common.files import json_text, remove_partials, write_files
from common.inputs import Command, Input
from common.stages import ARM_OF
from common.text import warn
from common.tiles import TileSet
from training.engine.averaging import AveragedNetwork
from training.engine.flags import RunOptions, TrainSettings
from training.engine.history import history_figure, history_text
from training.engine.meters import CHECKPOINT_KEPT, DrawnCrops, LossMeter, Stopwatch
from training.engine.recipe import Recipe

RUN_FILES = ("last.pt", "best.pt", "run.json", "history.csv", "curves.png")  # without the first there is no run


@dataclass
class TrainingState:
    """All that a run needs to continue: what changes from step to step."""

    model: nn.Module
    average: AveragedNetwork
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    drawn: DrawnCrops
    losses: LossMeter
    watch: Stopwatch = field(default_factory=Stopwatch)
    history: list[dict] = field(default_factory=list)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint of an unfinished run."""
        training = checkpoint.training or {}
        weights = training.get("weights", checkpoint.state)  # before version 0.10 nothing was averaged
        self.model.load_state_dict(weights, strict=True)
        self.average.network.load_state_dict(checkpoint.state, strict=True)
        self.optimizer.load_state_dict(training["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():  # the fused optimizer assumes that both have one memory layout
                if moment.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(moment)
        self.schedule.load_state_dict(training["schedule"])
        self.drawn.load(training["drawn"])
        self.losses.load(training["losses"])
        self.watch.seconds, self.history = training["seconds"], training["history"]

    def to_save(self) -> dict:
        """What an unfinished run's checkpoint holds beside the network. Every process must call this."""
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "drawn": self.drawn.state(),
            "losses": self.losses.state(),
            "seconds": dict(self.watch.seconds),
            "history": self.history,
        }


class RunFolder:
    """A run's folder and its record, which run.json and the metadata of the checkpoints hold."""

    def __init__(
        self,
        recipe: Recipe,
        val: TileSet,
        settings: TrainSettings,
        run: RunOptions,
        without_label: int,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.path = run.out_dir
        self.recipe = recipe
        self.val = val
        self.settings = settings
        self.run = run
        self.processes = processes
        self.device = device
        if processes.main:
            remove_partials([self.path / name for name in RUN_FILES])
        self.record = self._new_record(without_label)
        self.initial_digest: str | None = None  # until note_network

    def _new_record(self, without_label: int) -> dict:
        """What is known of a run before it starts; ``without_label`` training tiles are never drawn."""
        recipe, run, settings = self.recipe, self.run, self.settings
        return {
            "stage": recipe.stage,
            "compared_with": ARM_OF[recipe.stage].compared_with if recipe.stage in ARM_OF else None,
            "seed": run.seed,
            "command": str(run.command),
            "preset": run.preset,
            **settings.architecture.to_json(),
            "iterations": settings.iterations,
            "settings": asdict(settings),
            "recipe": recipe.describe(),
            "taxonomy": recipe.tiles.taxonomy.to_json(),
            "stretch": recipe.tiles.stretch,
            "images": self.val.images,
            "train": _tiles_record(recipe.tiles) | {"tiles_without_label": without_label},
            "val": _tiles_record(self.val),
            "ancestors": list(recipe.init.ancestors),
            "checkpoints": 0,
            "best": None,
            "last": None,
            **surroundings(self.device),
        }

    def command_to_go_on(self) -> Command:
        """The command that continues this run, or begins it if nothing was saved yet."""
        return self.run.command.resumed() if self.record["checkpoints"] else self.run.command

    def unfinished(self) -> Checkpoint | None:
        """The checkpoint to go on from, whose record this run takes over; None for a run from the start.

        Raises:
            UserError: there is an earlier run and neither --resume nor --overwrite; the run to resume is finished or
                was another one.
        """
        last, best = self.path / "last.pt", self.path / "best.pt"
        earlier = [name for name in RUN_FILES if (self.path / name).exists()]
        if earlier and not (self.run.resume or self.run.overwrite):
            raise UserError(
                f"{self.path} holds {', '.join(earlier)} of an earlier run. Continue it with --resume, "
                "or replace it with --overwrite."
            )
        if not (self.run.resume and last.is_file()):
            return None
        checkpoint = Checkpoint.load(Input(last, self.run.command))
        if checkpoint.training is None:
            raise UserError(
                f"{last} is of a finished run of {checkpoint.metadata['step']} steps. Replace it with --overwrite."
            )
        self._require_same_run(checkpoint)
        self.record["checkpoints"] = checkpoint.metadata["checkpoints"]
        if best.is_file():  # maybe of a validation after that of last.pt, if the run was killed
            self.record["best"] = Checkpoint.load(Input(best, self.run.command)).metadata["best"]
        return checkpoint

    def note_network(self, model: nn.Module, unfinished: Checkpoint | None) -> None:
        """Record what the network is before the first step: the digest of its weights, and what its encoder asks for.

        Raises UserError if the encoder of the run to resume asks for something else.
        """
        self.initial_digest = digest_tensors(model.state_dict())
        constants = EncoderConstants.installed(model.get_submodule("encoder")).to_json()
        self.record["encoder_constants"] = constants
        if unfinished is not None:
            before = EncoderConstants.read(unfinished.metadata.get("encoder_constants")).to_json()
            if before != constants:
                difference = _difference("encoder_constants", before, constants, "asked for")
                raise UserError(f"--resume: {unfinished.path} has another {difference}.")

    def _require_same_run(self, checkpoint: Checkpoint) -> None:
        before, now = complete_run_record(checkpoint.metadata), json.loads(json.dumps(self.record))
        for key in ("stage", "seed", "settings", "taxonomy", "stretch", "recipe"):
            if before[key] != now[key]:
                raise UserError(
                    f"--resume: {checkpoint.path} has another {_difference(key, before[key], now[key], 'asked for')}."
                )
        for key in ("train", "val"):
            if before[key]["digest"] != now[key]["digest"]:
                raise UserError(
                    f"--resume: {checkpoint.path} was trained with other {key} tiles than {now[key]['path']}."
                )
        for key in ("device", "versions"):
            if before[key] != now[key]:
                warn(
                    f"{checkpoint.path} was trained with another {_difference(key, before[key], now[key], 'here')}. "
                    "The run will not be identical to the last digit."
                )

    def save(self, state: TrainingState, step: int, metrics: dict | None) -> None:
        """Save a run after ``step`` optimizer steps and, if it was validated, the scores.

        Every process must call it; the main one writes.

        Raises:
            UserError: the network holds a number that is not finite, or a tile set was replaced meanwhile.
        """
        better = self._update_record(state, step, metrics)
        training = state.to_save()
        if not self.processes.main:
            return
        for tiles in (self.recipe.tiles, self.val):
            try:
                tiles.require_unchanged()
            except UserError as error:
                again = self.run.command.again()
                raise UserError(f"{error} {CHECKPOINT_KEPT} Start this run again: {again}") from None
        weights = {name: tensor.detach().cpu() for name, tensor in state.average.network.state_dict().items()}
        require_finite(weights, self.recipe.stage, step)
        earlier = [self.path / name for name in RUN_FILES] if self.record["checkpoints"] == 0 else []
        self.record["checkpoints"] += 1
        metadata = json.loads(json.dumps(self.record))
        run_record = self.record | {"initial_digest": self.initial_digest}
        contents: dict[str, str | bytes] = {"run.json": json_text(run_record)}
        if state.history:
            title = f"{self.recipe.stage}, seed {self.run.seed}"
            figure = history_figure(state.history, self.recipe.tiles.taxonomy, title)
            contents |= {"history.csv": history_text(state.history), "curves.png": png_bytes(figure)}
        if better:
            contents["best.pt"] = checkpoint_bytes(weights, metadata)
        # Last, so that a run that is killed in between is continued from a checkpoint before it, and ends as it should.
        contents["last.pt"] = checkpoint_bytes(weights, metadata, None if self.record["finished"] else training)
        write_files({self.path / name: content for name, content in contents.items()}, remove=earlier)

    def _update_record(self, state: TrainingState, step: int, metrics: dict | None) -> bool:
        """Put into the record what has come since the last save; whether ``metrics`` are the best so far."""
        record, ancestors = self.record, self.record["ancestors"]
        record.update(
            step=step,
            crops=step * self.settings.batch_size,
            finished=step == self.settings.iterations,
            drawn=state.drawn.summary(self.recipe.tiles),
            seconds=state.watch.rounded(),
            **peak_memory(self.device),
        )
        record["cumulative_steps"] = step + sum(ancestor["steps"] for ancestor in ancestors)
        record["cumulative_crops"] = record["crops"] + sum(ancestor["crops"] for ancestor in ancestors)
        if metrics is None:
            return False
        record["last"] = {"step": step, **metrics}
        better = record["best"] is None or metrics["mIoU"] > record["best"]["mIoU"]
        if better:
            record["best"] = record["last"]
        return better

    def summary(self) -> str:
        """The results of a finished run, in one line."""
        last, best, seconds = (self.record[key] for key in ("last", "best", "seconds"))
        return (
            f"{self.path}: {self.record['step']} steps in {sum(seconds.values()):.0f} s; mIoU on val "
            f"{last['mIoU']:.1%} (last.pt), {best['mIoU']:.1%} at step {best['step']} (best.pt)"
        )


def require_finite(weights: dict[str, torch.Tensor], stage: str, step: int) -> None:
    """Raises UserError if a weight that is to be saved is not a finite number."""
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{stage}: {len(bad)} tensors of the network are not finite after step {step} (first: {bad[0]}). "
            f"{CHECKPOINT_KEPT} Give a smaller --lr."
        )


def surroundings(device: torch.device) -> dict:
    """What a run is made with: device, commit of this code, versions of the libraries."""
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "git_commit": git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "segmentation_models_pytorch": smp.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
    }


def git_commit() -> str | None:
    """The commit of this code, ``-dirty`` if it was changed since; None if git does not know it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return described.stdout.strip() or None


def _tiles_record(tiles: TileSet) -> dict:
    return {"path": str(tiles.path), "digest": tiles.digest, "tiles": len(tiles)}


def peak_memory(device: torch.device) -> dict[str, int]:
    peak = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if device.type == "cuda":
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def _difference(key: str, before: object, now: object, now_is: str) -> str:
    """The first value by dotted path in which two records differ, with both."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                return _difference(f"{key}.{name}", before.get(name), now.get(name), now_is)
    return f"{key}: {before} there, {now} {now_is}"
