"""What every script shares: its flags, its error messages, its exit status, and progress over tiles."""

import argparse
import errno
import multiprocessing
import shlex
import sys
from pathlib import Path

from tqdm import tqdm


class UserError(Exception):
    """Wrong use or bad input: the message names the file or flag, what was found, what was expected, the remedy."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser with --root and with path flags whose defaults hang from it.

    A default such as ``artifacts/seed{seed}/tile_difficulty.tsv`` is filled from the other flags. A path
    that is given on the command line is used as it stands.
    """

    def __init__(self, doc: str):
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        prog = f"python -m {spec.name}" if spec and not spec.name.endswith("__main__") else None
        super().__init__(prog=prog, description=doc, formatter_class=_HelpFormatter, allow_abbrev=False)
        self._path_defaults: dict[str, str] = {}
        self.add_argument("--root", type=Path, default=Path("."), help="folder from which the default paths hang")

    def add_path(self, flag: str, default: str, help: str) -> None:
        """Add a path flag; ``default`` is relative to --root and may hold the names of other flags in braces."""
        action = self.add_argument(
            flag, type=Path, metavar="PATH", help=f"{help} (default: ROOT/{default.replace('%', '%%')})"
        )
        self._path_defaults[action.dest] = default

    def add_seed(self) -> None:
        self.add_argument("--seed", type=non_negative_int, default=42, help="seed of every random draw")

    def add_workers(self, default: int = 0) -> None:
        self.add_argument(
            "--workers", type=non_negative_int, default=default, help="worker processes; 0 works in the main process"
        )

    def add_overwrite(self) -> None:
        self.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run")

    def add_device(self) -> None:
        self.add_argument(
            "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto takes the GPU where there is one"
        )

    def parse_args(self, args=None, namespace=None):
        given = sys.argv[1:] if args is None else [str(a) for a in args]
        parsed = super().parse_args(given, namespace)
        for dest, default in self._path_defaults.items():
            if getattr(parsed, dest) is None:
                setattr(parsed, dest, parsed.root / default.format(**vars(parsed)))
        parsed.command = shlex.join([*self.prog.split(), *given])
        return parsed


def command_for(module: str, args, *flags: str) -> str:
    """The command that runs another script for the same root, with the same values of ``flags``, for messages."""
    words = ["python", "-m", module]
    if args.root != Path("."):
        words += ["--root", str(args.root)]
    for flag in flags:
        words += [flag, str(getattr(args, flag[2:].replace("-", "_")))]
    return shlex.join(words)


def _number(kind, accept, wanted):
    def parse(text):
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
fraction = _number(float, lambda v: 0 <= v <= 1, "a number between 0 and 1")


def run(main) -> None:
    """Run a script's main and exit: 0 done, 2 wrong use or bad input, 130 interrupted; a defect keeps its traceback."""
    status = 0
    try:
        status = main() or 0
    except UserError as error:
        said = str(error)
        if "Original Traceback" in said:  # how torch passes on an error of a loader worker
            said = said.rpartition("UserError: ")[2].strip()
        print(f"error: {said}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        status = 2
    sys.exit(status)


def map_progress(function, items, *, workers: int, desc: str, unit: str = "tile"):
    """Yield function(item) for each item, in order, under a progress bar; with --workers above 1 in processes.

    ``function`` must be importable (no lambda) and its results picklable. Its UserError reaches the caller.
    """
    items = list(items)
    bar = tqdm(total=len(items), desc=desc, unit=unit)
    with bar:
        if workers < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for result in pool.imap(function, items, chunksize=4):
                yield result
                bar.update()
