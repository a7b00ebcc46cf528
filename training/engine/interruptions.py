"""What may end a run early: signals, a loader process that dies, memory that does not suffice."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import torch

from common.device import Processes
from common.errors import UserError, lacks_memory, loader_died
from training.engine.flags import TrainSettings
from training.engine.meters import CHECKPOINT_KEPT, Position
from training.engine.run_folder import RunFolder


class StopSignals:
    """Catches SIGINT, SIGTERM and SIGHUP while it is entered, so that a step is never cut in two."""

    def __init__(self, processes: Processes, device: torch.device) -> None:
        self.processes = processes
        self.device = device
        self.caught: list[int] = []
        self.previous: dict = {}

    def __enter__(self) -> "StopSignals":
        endings = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            endings.append(signal.SIGHUP)
        self.previous = {ending: signal.signal(ending, self._catch) for ending in endings}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        self.caught.append(number)

    def ask(self, *, together: bool) -> bool:
        """Whether the run is to stop after this step; several processes agree on it at the steps ``together``."""
        if self.processes.world == 1:
            return bool(self.caught)
        return together and self.processes.agree(bool(self.caught), self.device)

    @property
    def exit_status(self) -> int:
        """That of a process which a signal ends; in a process that caught none, another one did."""
        return 128 + (self.caught[0] if self.caught else signal.SIGTERM)


@contextmanager
def failures_told(settings: TrainSettings, position: Position, folder: RunFolder) -> Generator[None]:
    """If a loader process dies or memory runs out, say at which step, and how to continue."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        if loader_died(error):
            problem = f"a loader process died ({first_line})"
            remedy = "The system kills one when memory runs out: give fewer --workers."
        elif lacks_memory(error):
            sizes = f"--batch-size {settings.batch_size} and --crop-size {settings.crop_size}"
            problem = f"memory does not suffice for {sizes} ({first_line})"
            remedy = (
                "Give smaller ones, the same in every training, fewer --workers, or share the batch among several GPUs "
                "with torchrun."
            )
        else:
            raise
        raise UserError(
            f"{problem}, at {position.describe()}. {CHECKPOINT_KEPT} {remedy} Go on with: {folder.command_to_go_on()}"
        ) from None
