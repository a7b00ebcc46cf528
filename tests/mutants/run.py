r"""Put small errors into the method, one at a time, and say which of them the quick tests do not notice.

The errors are in the lists beside this file, one list a module; README.md says how to add one. Each is put into a copy
of the tree, where the tests that its list names run until one fails. An error that no test notices has survived.

    python -m tests.mutants.run
    python -m tests.mutants.run common.losses common.samplers
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from tqdm import tqdm

from common.text import table

REPOSITORY = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).parent
OF_A_MUTANT = {"there", "put", "why", "equivalent"}
# Imported once and inherited by each process that runs tests; nothing of the tree itself is.
LIBRARIES = ("torch", "torchvision", "segmentation_models_pytorch", "rasterio", "sklearn.metrics", "matplotlib.figure")
LONGEST = 900  # seconds that the tests of a file may take
# What became of an error; those that broke the tests, as one does that cannot be imported, prove nothing.
SURVIVED, KILLED, KILLED_BY_TIME, BROKE = "survived", "killed", "killed, not finished in time", "broke the tests"


@dataclass(frozen=True)
class Mutant:
    """One error: ``there`` is replaced by ``put`` in ``module``; ``why`` says what is wrong then.

    ``equivalent`` says why no test can notice it, if none can.
    """

    module: str
    there: str
    put: str
    why: str
    equivalent: str | None = None

    @property
    def file(self) -> str:
        return self.module.replace(".", "/") + ".py"

    def line(self, source: str) -> int:
        return source[: source.index(self.there)].count("\n") + 1

    def applied(self, source: str) -> str:
        """The module's text with the error in it; ValueError unless ``there`` stands in it exactly once."""
        if source.count(self.there) != 1:
            raise ValueError(f"{self.file} has {source.count(self.there)} times, expected once: {self.there!r}")
        return source.replace(self.there, self.put)


@dataclass(frozen=True)
class MutantList:
    """The errors of a module and the tests that should notice them, those that do so soonest first."""

    module: str
    tests: list[str]
    mutants: list[Mutant]


@dataclass(frozen=True)
class Result:
    mutant: Mutant
    outcome: str
    seconds: float


def read_list(path: Path) -> MutantList:
    """Read ``<dotted module>.toml``; ValueError if an entry lacks something or has something unknown."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for entry in content["mutant"]:
        if not {"there", "put", "why"} <= entry.keys() <= OF_A_MUTANT:
            raise ValueError(f"{path.name}: an entry has {', '.join(entry)}, expected there, put, why[, equivalent]")
    mutants = [Mutant(path.stem, **entry) for entry in content["mutant"]]
    return MutantList(path.stem, content["tests"], mutants)


def all_lists() -> list[MutantList]:
    return [read_list(path) for path in sorted(LISTS.glob("*.toml"))]


def copy_tree(target: Path) -> None:
    """Copy the files that git knows or would add, as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)


def become_tests(tree: Path, tests: list[str], log: Path) -> None:
    """Run tests in ``tree`` until one fails, in this process, a child; it ends with pytest's exit status."""
    os.setsid()  # so that whatever the tests start can be ended with them
    os.chdir(tree)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    # Compiled files are told apart by size and second, which two errors can share: none are written.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins that are imported already cannot be loaded again
    own = {path.name for path in tree.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(REPOSITORY)))]
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(int(status))


class Runs:
    """Test runs side by side, each in a copy of the tree of its own."""

    def __init__(self, folder: Path, jobs: int):
        self.as_it_is = folder / "tree"
        copy_tree(self.as_it_is)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=self.as_it_is, check=True)
        self.log_of = {folder / f"tree{i}": folder / f"log{i}.txt" for i in range(jobs)}
        for tree in self.log_of:
            shutil.copytree(self.as_it_is, tree)
        self.fork = multiprocessing.get_context("fork")
        self.running: dict = {}

    def start(self, tests: list[str], mutant: Mutant | None, limit: float):
        """Start the tests in a free tree, with an error in it, as a process; ``wait_for_one`` frees the tree again."""
        tree = next(tree for tree in self.log_of if tree not in {run[0] for run in self.running.values()})
        if mutant is not None:
            source = (tree / mutant.file).read_text(encoding="utf-8")
            (tree / mutant.file).write_text(mutant.applied(source), encoding="utf-8")
            os.utime(tree / mutant.file, (0, 0))  # compiled files are told apart by size and second
        process = self.fork.Process(target=become_tests, args=(tree, tests, self.log_of[tree]))
        process.start()
        self.running[process] = (tree, mutant, time.monotonic(), limit)
        return process

    def wait_for_one(self) -> tuple:
        """(process, mutant, exit status or None where time ran out, seconds, output) of the next run that ends."""
        while True:
            wait([process.sentinel for process in self.running], timeout=0.5)
            for process, (tree, mutant, since, limit) in list(self.running.items()):
                seconds = time.monotonic() - since
                if process.exitcode is None and seconds < limit:
                    continue
                status = process.exitcode
                self.end(process)
                if mutant is not None:
                    shutil.copy2(self.as_it_is / mutant.file, tree / mutant.file)
                return process, mutant, status, seconds, self.log_of[tree].read_text(errors="replace")

    def end(self, process) -> None:
        """Kill a run with whatever it has started."""
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        del self.running[process]

    def close(self) -> None:
        for process in list(self.running):
            self.end(process)

    @property
    def full(self) -> bool:
        return len(self.running) == len(self.log_of)


def seconds_without_error(lists: list[MutantList], runs: Runs) -> dict[str, float]:
    """How long the tests of each module take as the tree is; SystemExit if one of them fails already."""
    waiting = list(dict.fromkeys(name for lst in lists for name in lst.tests))
    of_run, took = {}, {}
    with tqdm(total=len(waiting), desc="Without an error", unit="file", leave=False) as bar:
        while waiting or runs.running:
            while waiting and not runs.full:
                name = waiting.pop(0)
                of_run[runs.start([name], None, limit=LONGEST)] = name
            process, _, status, seconds, output = runs.wait_for_one()
            if status != 0:
                sys.exit(f"error: {of_run[process]} fails without any error put in (exit status {status}):\n{output}")
            took[of_run[process]] = seconds
            bar.update()
    return {lst.module: sum(took[name] for name in lst.tests) for lst in lists}


def try_all(lists: list[MutantList], jobs: int) -> list[Result]:
    """Try every mutant; survivors are printed as they are found."""
    for library in LIBRARIES:
        importlib.import_module(library)
    results = []
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Runs(Path(folder), jobs)) as runs:
        usual = seconds_without_error(lists, runs)
        waiting = [(mutant, lst.tests) for lst in lists for mutant in lst.mutants]
        with tqdm(total=len(waiting), desc="Mutants", unit="mutant") as bar:
            while waiting or runs.running:
                while waiting and not runs.full:
                    mutant, tests = waiting.pop(0)
                    runs.start(tests, mutant, limit=60 + 5 * usual[mutant.module])
                _, mutant, status, seconds, output = runs.wait_for_one()
                outcome = {0: SURVIVED, 1: KILLED, None: KILLED_BY_TIME}.get(status, BROKE)
                results.append(Result(mutant, outcome, round(seconds, 1)))
                if outcome in (SURVIVED, BROKE):
                    source = (runs.as_it_is / mutant.file).read_text(encoding="utf-8")
                    bar.write(describe(mutant, source, outcome) + (f"\n{output[-2000:]}" if outcome == BROKE else ""))
                bar.update()
    return results


def describe(mutant: Mutant, source: str, outcome: str) -> str:
    """What became of a mutant of the module whose text is ``source``, and its change, for the terminal."""
    changes = [f"    - {text.strip()}" for text in mutant.there.splitlines()]
    changes += [f"    + {text.strip()}" for text in mutant.put.splitlines()]
    known = f" (equivalent: {mutant.equivalent})" if mutant.equivalent else ""
    return "\n".join([f"{mutant.file}:{mutant.line(source)}: {outcome}: {mutant.why}{known}", *changes])


def summary(results: list[Result]) -> str:
    """How many errors of each module were tried, and what became of them, as a table."""
    rows = []
    for module in [*sorted({result.mutant.module for result in results}), None]:
        of_module = [result for result in results if module in (None, result.mutant.module)]
        outcomes = Counter(
            "equivalent" if result.outcome == SURVIVED and result.mutant.equivalent else result.outcome
            for result in of_module
        )
        killed = outcomes[KILLED] + outcomes[KILLED_BY_TIME]
        others = [outcomes[name] for name in ("equivalent", SURVIVED, BROKE)]
        rows.append([module or "all", len(of_module), killed, *others])
    return table(["module", "tried", "killed", "equivalent", SURVIVED, BROKE], rows)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="try only the errors of these (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tried side by side (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for what became of each")
    args = parser.parse_args(argv)
    unknown = [module for module in args.modules if not (LISTS / f"{module}.toml").is_file()]
    if unknown:
        parser.error(
            f"no list for {', '.join(unknown)}; there are {', '.join(p.stem for p in sorted(LISTS.glob('*.toml')))}"
        )
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    begin = time.monotonic()
    lists = [lst for lst in all_lists() if not args.modules or lst.module in args.modules]
    results = try_all(lists, args.jobs)
    print(summary(results))
    print(f"{len(results)} errors tried in {time.monotonic() - begin:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    unnoticed = [result for result in results if result.outcome == SURVIVED and not result.mutant.equivalent]
    return int(bool(unnoticed) or any(result.outcome == BROKE for result in results))


if __name__ == "__main__":
    sys.exit(main())
