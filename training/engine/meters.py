"""What a run counts and averages while it goes: the crops it drew and its losses."""

import math
from collections.abc import Callable

import numpy as np
import torch

from common.device import Processes
from common.errors import UserError
from common.taxonomy import IGNORE_INDEX
from common.tiles import TileSet
from training.engine.run_folder import CHECKPOINT_KEPT


class Drawn:
    """Counts what the crops of a run really held: pixels of each class, crops with each class, draws of each tile."""

    def __init__(self, num_tiles: int, num_classes: int, device: torch.device):
        self.counts = {
            "pixels": torch.zeros(num_classes, dtype=torch.int64),
            "crops_with": torch.zeros(num_classes, dtype=torch.int64),
            "tiles": torch.zeros(num_tiles, dtype=torch.int64),
        }
        self.device = device

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch with ``tile`` (N,) and ``pixels`` (N, C), both int64 and on the CPU."""
        self.counts["pixels"] += batch["pixels"].sum(dim=0)
        self.counts["crops_with"] += (batch["pixels"] > 0).sum(dim=0)
        self.counts["tiles"] += torch.bincount(batch["tile"], minlength=len(self.counts["tiles"]))

    def state(self, processes: Processes) -> dict[str, torch.Tensor]:
        """The counts of all processes."""
        return {name: processes.sum(count.to(self.device, copy=True)).cpu() for name, count in self.counts.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Start from the counts of an earlier ``state``."""
        for name, count in state.items():
            self.counts[name].copy_(count)

    def summary(self, processes: Processes, tiles: TileSet) -> dict:
        """Shares by class name, and how many tiles and replicas were drawn."""
        counts = {name: count.numpy() for name, count in self.state(processes).items()}
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


class _LossMeter:
    """Turns loss terms into the loss to differentiate, and averages them between readings."""

    def __init__(self, processes: Processes, device: torch.device):
        self.processes = processes
        self.device = device
        self.pending: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.names: list[str] = []
        self.sums = np.zeros(0)
        self.steps = 0
        self.recent = math.nan

    def add(self, terms: list) -> torch.Tensor:
        """() float loss whose gradient, averaged over the processes, is that of the whole batch."""
        counts = self.processes.sum(torch.stack([term.count.float() for term in terms]))
        means = torch.stack([term.total for term in terms]) / counts.clamp(min=1)
        total = sum(term.weight * mean for term, mean in zip(terms, means, strict=True))
        self.names = ["loss", *(term.name for term in terms)] if len(terms) > 1 else ["loss"]
        parts = [total, *means] if len(terms) > 1 else [total]
        self.pending.append(torch.stack([part.detach() for part in parts]))
        return total * self.processes.world

    def add_gradient(self, norm: torch.Tensor) -> None:
        """Note the () float norm of the gradient of the step whose loss was added last."""
        self.gradients.append(norm.detach())

    def read(self, step: int, stage: str, name_step: Callable[[int], str]) -> None:
        """Fetch the losses since the last reading, of which that of ``step`` is the last.

        Raises:
            UserError: one of them, or the norm of a gradient, is not finite; ``name_step`` describes that step.
        """
        if not self.pending:
            return
        values = self.processes.sum(torch.stack(self.pending)).cpu().numpy()
        norms = torch.stack(self.gradients).cpu().numpy()  # in all processes the same
        sound = np.isfinite(values).all(axis=1) & np.isfinite(norms)
        if not sound.all():
            first = int(np.argmin(sound))
            at = step - len(values) + first + 1
            what = "loss" if not np.isfinite(values[first]).all() else "norm of the gradient"
            found = values[first, 0] if what == "loss" else norms[first]
            raise UserError(
                f"{stage}: the {what} became {found} at {name_step(at)}. {CHECKPOINT_KEPT} "
                "Look at these tiles, or give a smaller --lr."
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
