"""Files and folders that appear whole or not at all, and reading back what the project wrote."""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError

MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path):
    """Give a path beside ``path`` to write to; it takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader never sees half of it."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content) -> None:
    """Write JSON so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, made_by: str):
    """The content of a JSON file that ``made_by`` (a command) writes; UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Write it first: {made_by}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Write it again: {made_by}") from None


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(content) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def place(source: Path, target: Path, mode: str) -> None:
    """Hard-link a file (``mode`` link), or copy it where the file system cannot link or ``mode`` is copy."""
    source = source.resolve()
    if mode == "link":
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another disk, or no links on this one: a copy serves as well
    shutil.copyfile(source, target)


def check_out_dir(path: Path, overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST) -> None:
    """Refuse an output folder that exists, is not ours (has no ``marker`` file), or lies in or above an input."""
    here = path.resolve()
    for source in inputs:
        there = Path(source).resolve()
        if here == there or there in here.parents or here in there.parents:
            raise UserError(f"--out-dir {path} and the input {source} lie in one another. Choose another --out-dir.")
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise UserError(f"{path} exists. Replace it with --overwrite, or choose another --out-dir.")
    if path.is_symlink() or not path.is_dir() or (not (path / marker).is_file() and any(path.iterdir())):
        raise UserError(
            f"{path} was not written by this project (it has no {marker}), so --overwrite does not delete it. "
            "Move it away, or choose another --out-dir."
        )


@contextmanager
def new_folder(path: Path, overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST):
    """Give a new folder beside ``path`` to write in; it takes its place when the block ends without an error."""
    check_out_dir(path, overwrite, inputs=inputs, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        os.rename(path, replaced)
    os.rename(folder, path)
    shutil.rmtree(replaced, ignore_errors=True)
