"""Run a training script of the tree in the current folder, in turns with one of another tree: an optimizer step each.

    python turns.py REPORT READ WRITE MODULE [FLAGS]   a step whenever a byte comes on the descriptor READ
    python turns.py REPORT network MODULE [FLAGS]      only the arithmetic of its network; nothing is trained

tests.benchmarks.two_builds starts it. It is a file of its own, outside the tree that it runs, so that it also runs
trees that are older than itself. The code of the tree runs as it is, except for four names of its loop: the progress
bar, whose update passes the turn on after each step; ``validate`` and ``RunFolder.save``, which are timed; and, for the
arithmetic, ``make_optimizer``, which is given the network. Whatever else a process does, it does in its turns as well,
and time counts only while it has the turn, so that a busy machine disturbs both alike. When one process has ended, the
other goes on alone.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """Whose turn it is, and the seconds of each activity in the turns of this process: by the clock, of processor."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write
        self.alone = False
        self.activity = "start"
        self.seconds = dict.fromkeys(("start", "training", "validation", "saving"), 0.0)
        self.processor = dict(self.seconds)
        self.steps = 0

    def wait(self) -> None:
        """Wait for the turn; the other process, once it has ended, has closed its end and never asks for it again."""
        self.alone = self.alone or not os.read(self.read, 1)
        self.since = time.perf_counter()
        self.processor_since = time.process_time()

    def pass_on(self) -> None:
        self.count(self.activity)
        if self.alone:
            return
        try:
            os.write(self.write, b".")
        except BrokenPipeError:
            self.alone = True
        self.wait()

    def count(self, next_activity: str) -> None:
        """Add the time since the last count to the activity of now, and begin another."""
        now, processor_now = time.perf_counter(), time.process_time()
        self.seconds[self.activity] += now - self.since
        self.processor[self.activity] += processor_now - self.processor_since
        self.since, self.processor_since, self.activity = now, processor_now, next_activity

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        before = self.activity
        self.count(activity)
        try:
            yield
        finally:
            self.count(before)


def take_turns(turns: Turns, validations: list[dict]) -> None:
    """Have the loop of this tree train in turns; each validation is noted with the seconds of training before it."""
    loop = importlib.import_module("training.engine.loop")
    validate, save = loop.validate, loop.RunFolder.save

    class Bar(loop.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            turns.count("training")

        def update(self, n=1):
            shown = super().update(n)
            turns.steps += 1
            turns.pass_on()
            return shown

    def timed_validate(*args, **kwargs):
        with turns.doing("validation"):
            metrics = validate(*args, **kwargs)
        ious = {name: of_class["IoU"] for name, of_class in metrics["classes"].items()}
        noted = {"step": turns.steps, "training": turns.seconds["training"], "mIoU": metrics["mIoU"], "classes": ious}
        validations.append(noted)
        return metrics

    def timed_save(*args, **kwargs):
        with turns.doing("saving"):
            return save(*args, **kwargs)

    loop.tqdm, loop.validate, loop.RunFolder.save = Bar, timed_validate, timed_save
    if hasattr(loop, "try_networks"):  # a trial before the first step costs an arm as its steps do
        try_networks = loop.try_networks

        def timed_trial(*args, **kwargs):
            with turns.doing("training"):
                return try_networks(*args, **kwargs)

        loop.try_networks = timed_trial


def train(report: Path, read: int, write: int, module: str) -> None:
    turns, validations = Turns(read, write), []
    turns.wait()
    take_turns(turns, validations)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    turns.count("start")
    found = {"steps": turns.steps, "seconds": turns.seconds, "processor": turns.processor, "validations": validations}
    report.write_text(json.dumps(found))


def measure_network(report: Path, module: str) -> None:
    """Stop a training where its network is built, and compare that with the product of matrices."""
    import torch
    from arithmetic import compare_with_matrices  # beside this file, not in the tree

    def measure(model, settings):
        images = torch.randn(settings.batch_size, 3, settings.crop_size, settings.crop_size)
        report.write_text(json.dumps(compare_with_matrices(model, images)))
        raise SystemExit(0)

    importlib.import_module("training.engine.loop").make_optimizer = measure
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    here, sys.path[0] = sys.path[0], os.getcwd()
    sys.path.append(here)
    report, how = Path(sys.argv[1]), sys.argv[2]
    if how == "network":
        module, sys.argv[1:] = sys.argv[3], sys.argv[4:]
        measure_network(report, module)
    else:
        read, write, module, sys.argv[1:] = int(how), int(sys.argv[3]), sys.argv[4], sys.argv[5:]
        train(report, read, write, module)


if __name__ == "__main__":
    main()
