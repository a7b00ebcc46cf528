r"""Train with an earlier commit and with this one, in turns, and compare their time, memory and scores.

The earlier commit is cloned from this repository's history into a temporary folder. Both train on the same tile sets:
of ../shared/real_data if that exists, else of generated scenes. A step of one training takes turns with a step of the
other, so that a busy machine disturbs both alike; see tests/benchmarks/turns.py.

    python -m tests.benchmarks.two_builds --json FILE
    python -m tests.benchmarks.two_builds --only demo --json FILE
    python -m tests.benchmarks.two_builds --iterations 8 --seeds 42
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from tests.benchmarks.comparing import Arm, compare_arms, own_validations
from tests.benchmarks.measuring import REPOSITORY, Figure, at_most, write_figures

EARLIER = "c84810bf1817afb203ca060f2123f47ac10155a6"  # the last commit before pretrained encoders and averaged weights
REAL_DATA = REPOSITORY.parent / "shared" / "real_data"
STAGES = ("stage1_baseline", "stage4_minority_crop")
PARTS = ("arms", "network", "demo")
TURNS = Path(__file__).with_name("turns.py")
GENERATED_SIDE = 204  # pixels of a generated tile, as of a real one: larger than the crops of the preset
STARTED: list[subprocess.Popen] = []  # by this process


@dataclass
class Build:
    """A tree of this project, the root that its runs are written to, and its preset."""

    name: str
    tree: Path
    root: Path
    preset: dict

    def command(self, module: str, *flags: object) -> list[str]:
        return [sys.executable, "-m", module, "--root", str(self.root), *map(str, flags)]

    def run_folder(self, stage: str, seed: int) -> Path:
        return self.root / "model_weights/biodiversity" / stage / f"seed{seed}"


def call(tree: Path, command: list[str], **environment: str) -> str:
    """Run a command in a tree; returns its standard output, and shows all of its output only where it fails."""
    process = subprocess.Popen(
        command, cwd=tree, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    STARTED.append(process)
    out, err = process.communicate()
    if process.returncode:
        fail(command, process.returncode, out + err)
    return out


def end(number: int, _: FrameType | None) -> None:
    """End with all processes that were started, so that the temporary folder goes, too."""
    for process in STARTED:
        process.terminate()  # nothing happens to one that has ended
    raise SystemExit(128 + number)


def fail(command: list[str], status: int, output: str) -> None:
    raise SystemExit(f"{' '.join(command)} ended with {status}:\n{output[-3000:]}")


def clone(commit: str, folder: Path) -> Path:
    """The tree of a commit of this repository, in a folder of its own.

    Raises:
        SystemExit: with what to do, where the commit is not in the history that is here.
    """
    known = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=REPOSITORY, capture_output=True)
    if known.returncode:
        raise SystemExit(
            f"error: the commit {commit} is not in the history of {REPOSITORY}. A shallow clone holds only the last "
            "commits; get the others with: git fetch --unshallow"
        )
    call(REPOSITORY, ["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(folder)])
    call(folder, ["git", "checkout", "--quiet", "--detach", commit])
    return folder


def preset_of(tree: Path, name: str) -> dict:
    """The values of a preset, as the code of a tree has them."""
    ask = f"import json; from training.engine.flags import PRESETS; print(json.dumps(PRESETS[{name!r}]))"
    return json.loads(call(tree, [sys.executable, "-c", ask]))


def write_raw(root: Path, tree: Path, real: bool) -> str:
    """Put raw Biodiversity tiles under a root; returns what they are."""
    if not real:
        command = [sys.executable, "-m", "data_prep.make_demo_data", "--root", str(root)]
        call(tree, [*command, "--tile-size", str(GENERATED_SIDE)])
        return f"generated scenes, tiles of {GENERATED_SIDE} px"
    (root / "data").mkdir(parents=True)
    (root / "data/biodiversity_raw").symlink_to(REAL_DATA / "biodiversity_raw")
    shutil.copyfile(REAL_DATA / "taxonomy.json", root / "taxonomy.json")
    return "real tiles"


def prepare(root: Path, tree: Path, real: bool) -> str:
    """Make the tile sets of stages 1 to 4 with the data steps of a tree; returns what they are made of."""
    made_of = write_raw(root, tree, real)
    steps = ("check_biodiversity", "split_biodiversity", "analyze_class_distribution", "replicate_minority")
    for step in (*steps, "check_leakage"):
        call(tree, [sys.executable, "-m", f"data_prep.{step}", "--root", str(root)])
    return made_of


def copy_sets(source: Path, root: Path) -> Path:
    """A root of its own with the same tile sets, without another copy of the tiles."""
    shutil.copytree(source / "data/biodiversity_split", root / "data/biodiversity_split", copy_function=os.link)
    shutil.copytree(source / "artifacts", root / "artifacts")
    if (source / "taxonomy.json").exists():
        shutil.copyfile(source / "taxonomy.json", root / "taxonomy.json")
    return root


def flags_of(build: Build, seed: int, args: argparse.Namespace) -> list[object]:
    """The loader has no worker, which would work on in the turns of the other build."""
    sizes = [f"--{name.replace('_', '-')}={build.preset[name]}" for name in ("iterations", "val_every")]
    return ["--preset", args.preset, "--seed", seed, "--device", "cpu", "--workers", 0, *sizes, *args.flags]


def score_difficulty(build: Build, seed: int, args: argparse.Namespace) -> None:
    """What stage 4 builds on: stage 2 and its weights of tiles, on one thread."""
    for command in (
        build.command("training.train_stage2_replication", *flags_of(build, seed, args)),
        build.command("training.score_difficulty", "--seed", seed, "--device", "cpu"),
    ):
        call(build.tree, command, OMP_NUM_THREADS="1")


def wait_for_all(processes: list[subprocess.Popen], outputs: list[IO[str]]) -> None:
    """Wait until all processes have ended; the first that fails is told at once, with its output."""
    waiting = True
    while waiting:
        waiting = any(process.poll() is None for process in processes)
        for process, output in zip(processes, outputs, strict=True):
            if process.returncode:
                output.seek(0)
                fail(process.args, process.returncode, output.read())
        time.sleep(0.5 if waiting else 0)


def train_in_turns(builds: list[Build], stage: str, seed: int, args: argparse.Namespace) -> list[Arm]:
    """Train an arm with both builds, one step of one after one step of the other."""
    ends = os.pipe(), os.pipe()
    os.write(ends[0][1], b".")  # the first turn is that of the first
    processes, outputs = [], []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        reports = [Path(folder) / f"{build.name}.json" for build in builds]
        for build, report, (read, _), (_, write) in zip(builds, reports, ends, ends[::-1], strict=True):
            outputs.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            given = flags_of(build, seed, args)
            if build is builds[-1]:
                given += ["--val-every", args.val_every]  # the last one given counts
            command = build.command(f"training.train_{stage}", *given)[2:]
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(TURNS), str(report), str(read), str(write), *command],
                    cwd=build.tree, pass_fds=(read, write), stdout=outputs[-1], stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        for end in itertools.chain(*ends):
            os.close(end)
        try:
            wait_for_all(processes, outputs)
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        arms = []
        for build, report in zip(builds, reports, strict=True):
            record = json.loads((build.run_folder(stage, seed) / "run.json").read_text())
            found = json.loads(report.read_text())
            arms.append(Arm(**found, own_validations=own_validations(build.preset), memory=record["peak_memory_mb"]))
        return arms


def measure_arms(builds: list[Build], args: argparse.Namespace) -> Iterator[tuple[str, int, list[Arm]]]:
    """Yield stage, seed and the arms of both builds, as soon as each pair has ended."""
    for stage, seed in itertools.product(args.stages, args.seeds):
        if stage == STAGES[1] and seed == args.seeds[0]:
            pool, pairs = ThreadPoolExecutor(args.jobs), itertools.product(builds, args.seeds)
            try:
                list(pool.map(lambda pair: score_difficulty(*pair, args), pairs))
            finally:
                pool.shutdown(cancel_futures=True)
        yield stage, seed, train_in_turns(builds, stage, seed, args)


def measure_network(build: Build, args: argparse.Namespace) -> Figure:
    """Arithmetic a second of the network of a build's preset, against the processor's own matrix product."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "network.json"
        given = [*flags_of(build, args.seeds[0], args), "--out-dir", Path(folder) / "run"]
        command = build.command("training.train_stage1_baseline", *given)[2:]
        call(build.tree, [sys.executable, str(TURNS), str(report), "network", *command])
        found = json.loads(report.read_text())
    detail = (
        f"{found['operations'] / 1e9:.1f} G operations in {found['seconds'] * 1000:.0f} ms, forward and backward; "
        f"{found['network'] / 1e9:.0f} and {found['matrix'] / 1e9:.0f} G a second (product of squares of "
        f"{found['side']}), {found['threads']} threads; limit 1"
    )
    return Figure("8", f"{build.name}: network : matrix product", found["network"] / found["matrix"], "", detail=detail)


def measure_demo(builds: list[Build], folder: Path, args: argparse.Namespace) -> list[Figure]:
    """Wall-clock time of what ``make demo`` runs once all is installed, of one build after the other."""
    seconds, processor = [], []
    for build in builds:
        root = str(folder / f"demo_{build.name}")
        begin = os.times()
        call(build.tree, [sys.executable, "-m", "data_prep.make_demo_data", "--root", root, "--seed", "42"])
        flags = ["--preset", "demo", "--seed", "42", "--jobs", "2", *(["--to", args.to] if args.to else [])]
        call(build.tree, [sys.executable, "reproduce.py", "--root", root, *flags])
        end = os.times()
        seconds.append(end.elapsed - begin.elapsed)
        processor.append(end.children_user + end.children_system - begin.children_user - begin.children_system)
        shutil.rmtree(root)
    detail = f"{seconds[1]:.0f} and {seconds[0]:.0f} s, one after the other{f', to {args.to} only' if args.to else ''}"
    of_it = f"{processor[1]:.0f} and {processor[0]:.0f} s"
    return [
        at_most("8", "make demo, this build : the earlier one", seconds[1] / seconds[0], 0.6, detail=detail),
        Figure("8", "the same in seconds of processor", processor[1] / processor[0], "", detail=of_it),
    ]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures, written after each")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS[:2]), help="default: arms network")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="of the arms")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="of the arms")
    parser.add_argument("--preset", default="laptop", help="of the arms and of the network")
    parser.add_argument("--val-every", type=int, default=15, help="steps between validations of this build")
    parser.add_argument("--jobs", type=int, default=2, help="stage 2 trainings, one thread each, side by side")
    parser.add_argument("--commit", default=EARLIER, help="the earlier build")
    parser.add_argument("--tiles", choices=["real", "generated"], help="default: real where they are there")
    trial = parser.add_argument_group("to try this benchmark itself; its figures say nothing then")
    trial.add_argument("--iterations", type=int, metavar="N", help="steps of each training, of both builds")
    trial.add_argument(
        "--flags", type=shlex.split, default=[], help="more flags of each training: --flags='--arch fpn'"
    )
    trial.add_argument("--to", metavar="STEP", help="last step of the demo")
    args = parser.parse_args(argv)
    args.stages.sort()
    if args.tiles == "real" and not REAL_DATA.is_dir():
        parser.error(f"--tiles real: {REAL_DATA} does not exist")
    return args


def make_builds(folder: Path, args: argparse.Namespace) -> list[Build]:
    trees = {"earlier": clone(args.commit, folder / "earlier"), "this": REPOSITORY}
    builds = [Build(name, tree, folder / f"root_{name}", preset_of(tree, args.preset)) for name, tree in trees.items()]
    if args.iterations:
        args.val_every = max(1, min(args.val_every, args.iterations // 4))
        for build in builds:
            build.preset |= {"iterations": args.iterations, "val_every": max(1, args.iterations // 2)}
    return builds


def main(argv: list[str] | None = None) -> None:
    args, begin = parse_args(argv), time.monotonic()
    signal.signal(signal.SIGTERM, end)
    ask = "import json; from tests.benchmarks.run import machine; print(json.dumps(machine()))"
    machine = json.loads(call(REPOSITORY, [sys.executable, "-c", ask]))  # in another process, see Arm.memory
    figures, arms, about = {}, [], {"commit": args.commit}

    def keep(part: str, found: list[Figure]) -> None:
        figures[part] = found
        if args.json:
            every = list(itertools.chain(*figures.values()))
            runs = [{"stage": stage, "seed": seed, **dict(zip(("earlier", "this"), map(vars, pair), strict=True))}
                    for stage, seed, pair in arms]  # fmt: skip
            write_figures(args.json, every, machine, **about, arms=runs)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        builds = make_builds(folder, args)
        about["presets"] = {build.name: build.preset for build in builds}
        if {"arms", "network"} & set(args.only):
            real = args.tiles == "real" or args.tiles is None and REAL_DATA.is_dir()
            about["tiles"] = prepare(folder / "sets", builds[0].tree, real)
            for build in builds:
                copy_sets(folder / "sets", build.root)
            distribution = json.loads((folder / "sets/artifacts/class_distribution.json").read_text())
            print(f"{about['tiles']}; minority classes: {', '.join(distribution['minority_classes'])}", flush=True)
        if "network" in args.only:
            keep("network", [measure_network(build, args) for build in builds])
            print(*figures["network"], sep="\n", flush=True)
        if "demo" in args.only:
            keep("demo", measure_demo(builds, folder, args))
            print(*figures["demo"], sep="\n", flush=True)
        if "arms" in args.only:
            for stage, seed, pair in measure_arms(builds, args):
                arms.append((stage, seed, pair))
                keep("arms", compare_arms(arms, distribution["minority_classes"]))
                print(f"{stage}, seed {seed}: ended after {time.monotonic() - begin:.0f} s", flush=True)
            print(*figures["arms"], sep="\n", flush=True)
    missed = sum(figure.holds is False for figure in itertools.chain(*figures.values()))
    print(f"{time.monotonic() - begin:.0f} s; {missed} goals missed")


if __name__ == "__main__":
    main()
