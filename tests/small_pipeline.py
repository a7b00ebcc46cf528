"""A pipeline of scripts that only note that they ran, for reproduce.py to run."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from reproduction.documents import REPOSITORY
from reproduction.jobs import heed_interrupts

SCRIPT = """
'''Another script takes --preset; this one says so only here.'''
import sys, time
from pathlib import Path
from tqdm import tqdm
from common.cli import Parser, UserError, run

def parse_args(argv=None):
    parser = Parser(__doc__)
    {flags}
    return parser.parse_args(argv)

def main(argv=None):
    args = parse_args(argv)
    with (args.root / "ran.txt").open("a") as out:
        print(__spec__.name, *sys.argv[1:], file=out)
    {body}

if __name__ == "__main__":
    run(main)
"""


class Pipeline:
    """A repository in a temporary folder: reproduce.py, three documents and the modules that they name."""

    def __init__(self, folder: Path):
        self.folder = folder
        source = REPOSITORY
        (folder / "common").mkdir()
        for name in (
            "reproduce.py",
            *(f"common/{module}.py" for module in ("__init__", "cli", "errors", "files", "folds", "inputs")),
        ):
            shutil.copy(source / name, folder / name)
        shutil.copytree(source / "reproduction", folder / "reproduction", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "demo").mkdir()
        for package in ("prep", "train"):
            (folder / package).mkdir()
            (folder / package / "__init__.py").touch()
        self.module("prep.split")
        self.module("train.stage1", flags="parser.add_seed(); parser.add_argument('--preset', choices=['demo'])")
        self.module("train.score", flags="parser.add_argument('--split'); parser.add_seed()")
        self.module("train.control", flags="parser.add_seed()")
        self.document("REPRODUCE_DATA.md", step(1, "Split", "python -m prep.split"))
        self.document(
            "REPRODUCE_TRAINING.md",
            step(1, "Baseline", "python -m train.stage1 --seed 1"),
            step(2, "Something else (control)", "python -m train.control"),
        )
        self.document(
            "REPRODUCE_EVALUATION.md",
            step(1, "Validation", "python -m train.score \\\n    --split val  # all stages"),
            step(2, "Test", "python -m train.score --split test"),
        )

    def module(self, name: str, flags: str = "pass", body: str = "pass"):
        path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        path.write_text(SCRIPT.format(flags=flags, body=body))

    def document(self, name: str, *parts: str):
        (self.folder / name).write_text("# Title\n\n## Prerequisites\n\nText.\n\n" + "\n".join(parts))

    def start(self, *flags, cwd=None):
        command = [sys.executable, str(self.folder / "reproduce.py"), *map(str, flags)]
        return subprocess.Popen(
            command, cwd=cwd or self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=heed_interrupts,  # these tests may themselves run as a job in the background
        )  # fmt: skip

    def run(self, *flags, status=0, cwd=None):
        process = self.start(*flags, cwd=cwd)
        process.out, process.err = process.communicate(timeout=60)
        assert process.returncode == status, process.out + process.err
        assert "Traceback" not in process.err
        return process

    def ran(self) -> list[str]:
        path = self.folder / "demo" / "ran.txt"
        return path.read_text().splitlines() if path.exists() else []

    def ran_briefly(self) -> list[str]:
        """What ran, without --root."""
        return [line.replace(" --root demo", "") for line in self.ran()]

    def forget(self):
        (self.folder / "demo" / "ran.txt").unlink()

    def log(self, name: str) -> str:
        return (self.folder / "demo" / "logs" / f"{name}.log").read_text()

    def summary(self) -> list[list[str]]:
        lines = (self.folder / "demo" / "logs" / "summary.tsv").read_text().splitlines()
        return [line.split("\t") for line in lines]

    def two_stages(self, body="pass", flags="parser.add_seed()"):
        """A training document of two stages that take --seed, with another body, and a control."""
        for name in ("stage1", "stage2"):
            self.module(f"train.{name}", flags=flags, body=body)
        self.document(
            "REPRODUCE_TRAINING.md",
            step(1, "Baseline", "python -m train.stage1"),
            step(2, "Replication", "python -m train.stage2"),
            step(3, "Something else (control)", "python -m train.control"),
        )


def step(number: int, title: str, command: str) -> str:
    return f"## {number}. {title}\n\nWhat it does.\n\n```bash\n{command}\n```\n"


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie does not run
