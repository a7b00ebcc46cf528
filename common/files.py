"""Files and folders that appear whole or not at all, and reading back what the project wrote."""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError

MANIFEST = "manifest.json"
MANIFEST_KEYS = {"digest", "split", "tiles"}
TILE_SET_NAMES = {"images", "masks", MANIFEST}


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
    """Hard-link a file (``mode`` link), or copy it where the file system cannot link or ``mode`` is copy.

    Raises:
        UserError: ``target`` exists. It may be a link to somebody's raw file, so that nothing is written to it.
    """
    source = source.resolve()
    try:
        if mode == "link":
            try:
                os.link(source, target)
                return
            except FileExistsError:
                raise
            except OSError:
                pass  # another disk, or no links on this one: a copy serves as well
        with open(source, "rb") as original, open(target, "xb") as copy:
            shutil.copyfileobj(original, copy)
    except FileExistsError:
        raise UserError(
            f"{target} exists, so {source} cannot be put there. Give one of the two another name."
        ) from None


def _holds_only_ours(path: Path, marker: str) -> bool:
    """Whether a folder is one that this project wrote, with nothing in it that somebody else put there.

    With another ``marker`` than the manifest of a tile set the marker file alone decides. Empty folders are ours.
    """
    names = {p.name for p in path.iterdir() if not p.name.startswith(".") and not p.name.endswith(".aux.xml")}
    if marker != MANIFEST or not names:
        return not names or (path / marker).is_file()
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and MANIFEST_KEYS <= manifest.keys() and names <= TILE_SET_NAMES


def check_out_dirs(paths: list[Path], overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST) -> None:
    """Refuse output folders that exist, are not ours, or lie in or above an input.

    Folders that are written together exist together. Where only some do, a run was cut off while it put them in their
    place: then those that are ours are replaced without ``overwrite`` too.
    """
    for path in paths:
        here = path.resolve()
        for source in inputs:
            there = Path(source).resolve()
            if here == there or there in here.parents or here in there.parents:
                raise UserError(
                    f"--out-dir {path} and the input {source} lie in one another. Choose another --out-dir."
                )
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if existing and not overwrite and len(existing) == len(paths):
        raise UserError(f"{existing[0]} exists. Replace it with --overwrite, or choose another --out-dir.")
    for path in existing:
        if path.is_symlink() or not path.is_dir() or not _holds_only_ours(path, marker):
            raise UserError(
                f"{path} was not written by this project, or holds other files beside what was (a folder of this "
                f"project has a {marker}), so it is not deleted. Move it away, or choose another --out-dir."
            )


def check_out_dir(path: Path, overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST) -> None:
    """``check_out_dirs`` for one folder."""
    check_out_dirs([path], overwrite, inputs=inputs, marker=marker)


def _beside(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _publish(paths: list[Path]) -> None:
    """Put the new folders in the place of the old ones: all of them, or none where that is interrupted."""
    for path in paths:
        shutil.rmtree(_beside(path, "replaced"), ignore_errors=True)  # of a run that was killed
    try:
        for path in paths:
            if path.exists():
                os.rename(path, _beside(path, "replaced"))
        for path in paths:
            os.rename(_beside(path, "partial"), path)
    except BaseException:
        for path in paths:
            if path.exists() and not _beside(path, "partial").exists():
                os.rename(path, _beside(path, "partial"))
            if not path.exists() and _beside(path, "replaced").exists():
                os.rename(_beside(path, "replaced"), path)
        raise
    for path in paths:
        shutil.rmtree(_beside(path, "replaced"), ignore_errors=True)


@contextmanager
def new_folders(paths: list[Path], overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST):
    """Give new folders beside ``paths`` to write in; they take their places together when the block ends well."""
    paths = list(paths)
    check_out_dirs(paths, overwrite, inputs=inputs, marker=marker)
    folders = [_beside(path, "partial") for path in paths]
    published = False
    try:
        for folder in folders:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            folder.mkdir()
        yield folders
        _publish(paths)
        published = True
    finally:
        if not published:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(path: Path, overwrite: bool, *, inputs: list[Path] = (), marker: str = MANIFEST):
    """``new_folders`` for one folder."""
    with new_folders([path], overwrite, inputs=inputs, marker=marker) as (folder,):
        yield folder
