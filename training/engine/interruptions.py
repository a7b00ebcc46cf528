"""What may end a run early: signals, a loader process that dies, memory that does not suffice."""

import signal
from collections.abc import Callable
from contextlib import contextmanager

from common.errors import UserError, lacks_memory, loader_died
from training.engine.run_folder import CHECKPOINT_KEPT


@contextmanager
def _failures_told(args, now: Callable[[], str], again: Callable[[], str]):
    """Say what is known where a loader process dies or memory runs out: ``now`` the step, ``again`` the command."""

    def say(what: str, remedy: str) -> UserError:
        return UserError(f"{what}, at {now()}. {CHECKPOINT_KEPT} {remedy} Go on with: {again()}")

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if loader_died(error):
            remedy = "The system kills one when memory runs out: give fewer --workers."
            raise say(f"a loader process died ({first})", remedy) from None
        if lacks_memory(error):
            sizes = f"--batch-size {args.batch_size} and --crop-size {args.crop_size}"
            raise say(
                f"memory does not suffice for {sizes} ({first})",
                "Give smaller ones, the same in every arm, fewer --workers, or share the batch among several GPUs with "
                "torchrun.",
            ) from None
        raise


@contextmanager
def _stop_signals():
    """Give a list that SIGINT, SIGTERM and SIGHUP put their number in, so that a step is never cut in two."""
    caught: list[int] = []
    endings = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        endings.append(signal.SIGHUP)
    previous = {ending: signal.signal(ending, lambda number, _: caught.append(number)) for ending in endings}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
