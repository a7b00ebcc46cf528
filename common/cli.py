"""What every script shares: its flags, its error messages, its exit status, and progress over tiles."""

import argparse
import errno
import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tqdm import tqdm

from common.errors import REMEDIES, WHOLE, UserError, lacks_memory, loader_died
from common.folds import study_root
from common.inputs import Command, Input

N = TypeVar("N", int, float)
T = TypeVar("T")
R = TypeVar("R")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser with --root and with path flags whose defaults are relative to it.

    A default such as ``artifacts/seed{seed}/tile_difficulty.tsv`` is filled from the other flags. A path
    that is given on the command line is used as it stands.
    """

    def __init__(self, doc: str | None) -> None:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        prog = f"python -m {spec.name}" if spec and not spec.name.endswith("__main__") else None
        super().__init__(prog=prog, description=doc, formatter_class=_HelpFormatter, allow_abbrev=False)
        self._path_defaults: dict[str, str] = {}
        self._makers: dict[str, tuple[str, str, list[str]]] = {}
        self._shared: set[str] = set()
        self.add_argument("--root", type=Path, default=Path("."), help="folder that the default paths are relative to")

    def add_path(self, flag: str, default: str, help: str, *, shared: bool = False) -> str:
        """Add a path flag and return its name in what is parsed.

        ``default`` is relative to --root and may hold the names of other flags in braces. What is ``shared`` by the
        folds of a study lies below the study's root, even if --root is that of a fold.
        """
        action = self.add_argument(
            flag, type=Path, metavar="PATH", help=f"{help} (default: ROOT/{default.replace('%', '%%')})"
        )
        self._path_defaults[action.dest] = default
        if shared:
            self._shared.add(action.dest)
        return action.dest

    def add_input(self, flag: str, default: str | None, help: str, *, made_by: str, shared: bool = False) -> None:
        """Add the flag of a file or folder that another script makes; parsed, it is an Input.

        Its command has the --root of this call, or the study's if it is ``shared``, its --seed if ``default``
        has one, and for a training its --preset.

        Args:
            flag, default, help, shared: as for ``add_path``; without a default the flag is optional, and None if
                it is not given.
            made_by: the script, with its flags if it needs any to make this: ``training.train_teacher``.
        """
        if default is None:
            dest = self.add_argument(flag, type=Path, metavar="PATH", help=help).dest
        else:
            dest = self.add_path(flag, default, help, shared=shared)
        with_seed = "--seed" if "{seed}" in (default or "") else None
        with_preset = "--preset" if made_by.startswith("training.train_") else None
        self._makers[dest] = (flag, made_by, [name for name in (with_preset, with_seed) if name])

    def add_seed(self) -> None:
        self.add_argument("--seed", type=non_negative_int, default=42, help="seed of every random draw")

    def add_workers(self, default: int = 0) -> None:
        self.add_argument(
            "--workers", type=worker_count, default=default, help="worker processes; 0 works in the main process"
        )

    def add_overwrite(self) -> None:
        self.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run")

    def add_device(self) -> None:
        self.add_argument(
            "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto takes the GPU if there is one"
        )

    def parse_args(  # pyrefly: ignore[bad-override]  its overloads serve namespaces of other classes
        self, args: Sequence[object] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        given = sys.argv[1:] if args is None else [str(a) for a in args]
        parsed = super().parse_args(given, namespace or argparse.Namespace())
        for dest, default in self._path_defaults.items():
            if getattr(parsed, dest) is None:
                setattr(parsed, dest, self._home(dest, parsed.root) / default.format(**vars(parsed)))
        for dest, (flag, made_by, passed_on) in self._makers.items():
            path = getattr(parsed, dest)
            values = [(name, getattr(parsed, name[2:], None)) for name in passed_on]
            flags = [word for name, value in values if value is not None for word in (name, str(value))]
            if path is not None:
                setattr(parsed, dest, Input(path, Command.of(made_by, self._home(dest, parsed.root), *flags), flag))
        parsed.command = shlex.join([*self.prog.split(), *given])
        return parsed

    def _home(self, dest: str, root: Path) -> Path:
        return study_root(root) if dest in self._shared else root


def _number(kind: Callable[[str], N], accept: Callable[[N], bool], wanted: str) -> Callable[[str], N]:
    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    parse.__name__ = wanted
    return parse


positive_int = _number(int, lambda v: v > 0, "a whole number above 0")
non_negative_int = _number(int, lambda v: v >= 0, "a whole number of 0 or more")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
non_negative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of 0 or more")
MOST_WORKERS = max(32, 4 * (os.cpu_count() or 1))  # more would only take memory
worker_count = _number(int, lambda v: 0 <= v <= MOST_WORKERS, f"a whole number from 0 to {MOST_WORKERS}, here")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number between 0 and 1")


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main and exit: 0 done, 2 wrong use, bad input or a refusal of the system, 130 and 143 by a signal.

    A defect of this project keeps its traceback and exits with 1.
    """
    status = 0
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)  # so that temporary files are removed
    try:
        status = main() or 0
    except UserError as error:
        message = str(error)
        if "Original Traceback" in message:  # how torch passes on an error of a loader worker
            message = message.rpartition("UserError: ")[2].strip()
        print(f"error: {message}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except (MemoryError, RuntimeError) as error:
        if not (loader_died(error) or lacks_memory(error)):
            raise
        reason = f"{str(error).splitlines()[0]}. " if str(error) else ""
        print(f"error: {reason}{REMEDIES[errno.ENOMEM]} {WHOLE}", file=sys.stderr)
        status = 2
    except OSError as error:
        if error.filename is None and error.errno not in REMEDIES:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = REMEDIES.get(error.errno or 0, "")
        print(f"error: {where}{error.strerror}. {remedy} {WHOLE}", file=sys.stderr)
        status = 2
    sys.exit(status)


def _end(number: int, _: FrameType | None) -> None:
    print("ended by a signal", file=sys.stderr)
    raise SystemExit(128 + number)


def _serve_one_parent() -> None:
    """Worker setup: ignore Ctrl-C; exit when the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_it() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_it, daemon=True).start()


def map_progress(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, desc: str, unit: str = "tile"
) -> Iterator[R]:
    """Yield function(item) for each item, in order, under a progress bar; with --workers above 1 in processes.

    ``function`` must be importable (no lambda) and its results picklable. Its UserError reaches the caller.

    Raises:
        UserError: a process died, as one does that the system kills when memory runs out.
    """
    items = list(items)
    with tqdm(total=len(items), desc=desc, unit=unit) as bar:
        if workers < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(items)) or 1, mp_context=spawn, initializer=_serve_one_parent)
        try:
            for result in pool.map(function, items, chunksize=4):
                yield result
                bar.update()
        except BrokenProcessPool:
            raise UserError(
                f"{desc}: a worker process died after {bar.n} of {len(items)} {unit}s, as one does when memory runs "
                "out. Give fewer --workers; --workers 0 shows where it happens."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
