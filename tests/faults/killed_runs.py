"""Trainings that are killed at any moment, and resumed: they end with the weights of the run that was not.

python -m tests.faults.killed_runs
"""

import random
import shutil
import time
from pathlib import Path

from common.checkpoints import Checkpoint
from common.stages import ARMS
from tests.conftest import TRAIN_FLAGS
from tests.faults.harness import Family, Scripts, count_changes, print_families, scripts
from tests.helpers import made, prepare_root

KILLS = 20
STEPS, VAL_EVERY = 6, 2
RUN = (*TRAIN_FLAGS, "--iterations", str(STEPS), "--val-every", str(VAL_EVERY))
FOLDERS = {arm.name: f"model_weights/biodiversity/{arm.name}/seed42" for arm in ARMS if arm.trained} | {
    "teacher": "model_weights/openearthmap/teacher/seed42"
}


def outcome(out_dir: Path) -> tuple:
    """All that two runs must have in common: weights, history, and what was drawn."""
    last, best = (Checkpoint.load(made(out_dir / name)) for name in ("last.pt", "best.pt"))
    known = last.metadata
    facts = [known[key] for key in ("drawn", "last", "best", "finished", "step", "ancestors")]
    return last.digest, best.digest, (out_dir / "history.csv").read_text(), facts


def prepare(script: Scripts, root: Path) -> Path:
    """A root in which every arm can be trained."""
    prepare_root(root)
    for module in (
        *("train_teacher", "train_stage1_baseline", "train_stage2_replication"),
        *("score_difficulty", "train_stage5a_pretrain"),
    ):
        flags = TRAIN_FLAGS if module != "score_difficulty" else ("--device", "cpu")
        ended = script(f"training.{module}", "--root", root, *flags)
        assert ended.status == 0, ended.err
    return root


def resume_problem(script: Scripts, module: str, flags: tuple, whole: tuple, out_dir: Path) -> str | None:
    """Resume a killed run, and compare it with the uninterrupted one; what differs, None where nothing does."""
    ended = script(module, *flags, "--resume")
    if ended.status:
        return f"resuming ended with {ended.status}: {ended.err[-300:]}"
    found = outcome(out_dir)
    names = ("weights of last.pt", "weights of best.pt", "history", "facts")
    differ = [name for name, a, b in zip(names, found, whole, strict=True) if a != b]
    hidden = [path.name for path in out_dir.parent.rglob(".*")]
    if hidden:
        return f"left behind: {hidden}"
    return f"other {', '.join(differ)}" if differ else None


def kill_problem(script: Scripts, module: str, flags: tuple, spec: str, whole: tuple, out_dir: Path) -> str | None:
    """Kill a run by a spec of tests.faults.fault, or after so many seconds, and resume it; what went wrong."""
    if spec.startswith("seconds@"):
        running = script.start(module, *flags)
        time.sleep(float(spec.removeprefix("seconds@")))
        running.kill()
        ended = running.wait()
    else:
        ended = script("tests.faults.fault", spec, module, *flags, FAULT_BELOW=str(out_dir))
    if ended.status == 0 and spec.startswith("seconds@"):
        return None if outcome(out_dir) == whole else "two whole runs differ"
    if ended.status != -9:
        return f"was not killed, but ended with {ended.status}: {ended.err[-300:]}"
    return resume_problem(script, module, flags, whole, out_dir)


def inject(folder: Path, kills: int = KILLS, seed: int = 0) -> list[Family]:
    """Kill ``kills`` runs of arms drawn at random, at moments drawn at random, and resume each."""
    family = Family("trainings killed, resumed", "weights, history and draws of the uninterrupted run")
    rng = random.Random(seed)
    with scripts() as script:
        root = prepare(script, folder / "root")
        known: dict[str, tuple] = {}
        for number in range(kills):
            arm = rng.choice(list(FOLDERS))
            module = "training.train_teacher" if arm == "teacher" else f"training.train_{arm}"
            if arm not in known:
                whole_dir, began = folder / arm, time.monotonic()
                flags = ("--root", root, *RUN, "--out-dir", whole_dir)
                changes, _ = count_changes(script, whole_dir, module, *flags)
                known[arm] = outcome(whole_dir), changes, time.monotonic() - began
            whole, changes, seconds = known[arm]
            spec = rng.choice(
                [
                    f"step@{rng.randint(1, STEPS)}",
                    f"validation@{rng.randint(1, STEPS // VAL_EVERY)}",
                    f"kill@{rng.randint(1, changes)}",
                    f"kill@{rng.randint(1, changes)}",
                    f"seconds@{rng.uniform(0, seconds):.2f}",
                ]
            )
            out_dir = folder / "killed" / "run"
            workers = rng.choice([0, 1])
            flags = ("--root", root, *RUN, "--workers", workers, "--out-dir", out_dir)
            family.record(f"{number}: {arm}, {spec}", kill_problem(script, module, flags, spec, whole, out_dir))
            shutil.rmtree(out_dir.parent, ignore_errors=True)
    return [family]


if __name__ == "__main__":
    print_families(inject)
