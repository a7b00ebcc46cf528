"""What a run counts and averages while it trains: its position, the crops it drew, its losses, its time."""

import math
import time

import numpy as np
import torch

from common.device import Processes
from common.errors import UserError
from common.losses import LossTerm
from common.taxonomy import IGNORE_INDEX
from common.tiles import TileSet
from training.engine.crops import TileDraws

CHECKPOINT_KEPT = "The last checkpoint is unchanged."  # part of each message of a run that ends early


class Position:
    """How far a run is, for messages: after ``step`` optimizer steps, and whether in their validation."""

    def __init__(self, tiles: TileSet, draws: TileDraws, batch_size: int) -> None:
        self.tiles = tiles
        self.draws = draws
        self.batch_size = batch_size
        self.step = 0
        self.validating = False

    def name_step(self, step: int) -> str:
        """An optimizer step, the first being 1, with the tiles that its crops come from, in all processes."""
        first = (step - 1) * self.batch_size
        indices = {self.draws(position) for position in range(first, first + self.batch_size)}
        return f"step {step}, whose crops are of the tiles {', '.join(sorted(self.tiles.ids[i] for i in indices))}"

    def describe(self) -> str:
        return f"the validation after step {self.step}" if self.validating else self.name_step(self.step + 1)


class DrawnCrops:
    """Counts what the crops of a run held: pixels of each class, crops with each class, draws of each tile."""

    def __init__(self, num_tiles: int, num_classes: int, processes: Processes, device: torch.device) -> None:
        self.counts = {
            "pixels": torch.zeros(num_classes, dtype=torch.int64),
            "crops_with": torch.zeros(num_classes, dtype=torch.int64),
            "tiles": torch.zeros(num_tiles, dtype=torch.int64),
        }
        self.processes = processes
        self.device = device

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch with ``tile`` (N,) and ``pixels`` (N, C), both int64 and on the CPU."""
        self.counts["pixels"] += batch["pixels"].sum(dim=0)
        self.counts["crops_with"] += (batch["pixels"] > 0).sum(dim=0)
        self.counts["tiles"] += torch.bincount(batch["tile"], minlength=len(self.counts["tiles"]))

    def state(self) -> dict[str, torch.Tensor]:
        """The counts of all processes, each of which must ask for them."""
        return {name: self.processes.sum(count.to(self.device, copy=True)).cpu() for name, count in self.counts.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Start from the counts of an earlier ``state``, in one process: those of all are added up."""
        if self.processes.main:
            for name, count in state.items():
                self.counts[name].copy_(count)

    def summary(self, tiles: TileSet) -> dict:
        """Shares by class name, and how many tiles and replicas were drawn, in all processes."""
        counts = {name: count.numpy() for name, count in self.state().items()}
        crops = max(int(counts["tiles"].sum()), 1)
        labelled = max(int(counts["pixels"].sum() - counts["pixels"][IGNORE_INDEX]), 1)
        names = tiles.taxonomy.classes
        replica = np.array(["base" in tile.entry and tile.entry["base"] is not None for tile in tiles])
        return {
            "pixel_share": {n: float(p / labelled) for n, p in zip(names[1:], counts["pixels"][1:], strict=True)},
            "crops_with_class": {n: float(c / crops) for n, c in zip(names[1:], counts["crops_with"][1:], strict=True)},
            "void_share": float(counts["pixels"][IGNORE_INDEX] / max(int(counts["pixels"].sum()), 1)),
            "distinct_tiles": int((counts["tiles"] > 0).sum()),
            "replica_share": float(counts["tiles"][replica].sum() / crops),
        }


class LossMeter:
    """Turns loss terms into the loss to differentiate, and averages them between readings."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.pending: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.names: list[str] = []
        self.sums = np.zeros(0)
        self.steps = 0
        self.recent = math.nan

    def add(self, terms: list[LossTerm]) -> torch.Tensor:
        """() float loss whose gradient, averaged over the processes, is that of the complete batch."""
        counts = self.processes.sum(torch.stack([term.count.float() for term in terms]))
        means = torch.stack([term.total for term in terms]) / counts.clamp(min=1)
        total = torch.stack([term.weight * mean for term, mean in zip(terms, means, strict=True)]).sum()
        self.names = ["loss", *(term.name for term in terms)] if len(terms) > 1 else ["loss"]
        parts = [total, *means] if len(terms) > 1 else [total]
        self.pending.append(torch.stack([part.detach() for part in parts]))
        return total * self.processes.world

    def add_gradient(self, norm: torch.Tensor) -> None:
        """Note the () float norm of the gradient of the step whose loss was added last."""
        self.gradients.append(norm.detach())

    def read(self, stage: str, position: Position) -> None:
        """Fetch the losses since the last reading; the last of them is that of ``position.step``.

        Raises:
            UserError: one of them, or the norm of a gradient, is not finite.
        """
        if not self.pending:
            return
        # In double precision the sum does not depend on when it is read, which a run that is stopped changes.
        values = self.processes.sum(torch.stack(self.pending)).cpu().double().numpy()
        norms = torch.stack(self.gradients).cpu().numpy()  # in all processes the same
        sound = np.isfinite(values).all(axis=1) & np.isfinite(norms)
        if not sound.all():
            first = int(np.argmin(sound))
            is_loss = not np.isfinite(values[first]).all()
            name, value = ("loss", values[first, 0]) if is_loss else ("norm of the gradient", norms[first])
            raise UserError(
                f"{stage}: the {name} became {value} at {position.name_step(position.step - len(values) + first + 1)}. "
                f"{CHECKPOINT_KEPT} Look at these tiles, or give a smaller --lr."
            )
        self.sums = values.sum(axis=0) if not len(self.sums) else self.sums + values.sum(axis=0)
        self.steps += len(values)
        self.recent = float(values[:, 0].mean())
        self.pending, self.gradients = [], []

    def means(self) -> dict[str, float]:
        """Mean loss and its parts since the last call."""
        means = {name: float(value / self.steps) for name, value in zip(self.names, self.sums, strict=True)}
        self.sums, self.steps = np.zeros(0), 0
        return means

    def state(self) -> dict:
        """The losses that are not yet averaged."""
        return {"sums": torch.from_numpy(self.sums), "steps": self.steps}

    def load(self, state: dict) -> None:
        """Go on from an earlier ``state``."""
        self.sums, self.steps = state["sums"].numpy(), state["steps"]


class Stopwatch:
    """Seconds of training and of validation over all sittings of a run."""

    def __init__(self) -> None:
        self.seconds = {"training": 0.0, "validation": 0.0}
        self.start(0)

    def start(self, step: int) -> None:
        """Begin to measure after ``step`` optimizer steps; the time until now does not count."""
        self.first_step, self.since = step, time.perf_counter()

    def stop(self, activity: str) -> None:
        """Add the time since the start to that of training or of validation, and start anew."""
        now = time.perf_counter()
        self.seconds[activity] += now - self.since
        self.since = now

    def steps_per_second(self, step: int) -> float:
        return (step - self.first_step) / (time.perf_counter() - self.since)

    def rounded(self) -> dict[str, float]:
        return {activity: round(seconds, 2) for activity, seconds in self.seconds.items()}
