"""Files and folders that appear complete or not at all and are written by one process at a time; reading them."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.inputs import Input

MANIFEST = "manifest.json"
SECONDS_TO_DIE = 2
JUNK = {".DS_Store", "Thumbs.db", "desktop.ini"}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # as some network file systems answer
MANIFEST_KEYS = {"digest", "split", "tiles"}


def _beside(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def write_files(contents: dict[Path, str | bytes], *, remove: Sequence[Path] = ()) -> None:
    """Write files so that a reader never sees half of one; text becomes UTF-8.

    All are written completely, to temporary files on the same disk, before the first takes its place, in order.
    Until then nothing has changed: neither the files there nor those to ``remove``, which go first.

    Raises:
        OSError: one cannot be written; those that were there are as they were.
    """
    partials = {path: _beside(path, "partial") for path in contents}
    path = partial = Path()
    try:
        for path, partial in partials.items():
            content = contents[path]
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for old in remove:
            old.unlink(missing_ok=True)
        for path, partial in partials.items():
            os.replace(partial, path)
    except BaseException as problem:
        remove_partials(list(contents))
        if isinstance(problem, OSError) and problem.errno and problem.filename in (None, str(partial)):
            raise OSError(problem.errno, problem.strerror, str(path)) from None
        raise


def remove_partials(paths: list[Path]) -> None:
    """Remove what a killed ``write_files`` left beside its files."""
    for path in paths:
        _beside(path, "partial").unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``write_files`` for one text."""
    write_files({path: text})


def json_text(content: object) -> str:
    """A JSON value as a file's text."""
    return json.dumps(content, indent=1) + "\n"


def write_json(path: Path, content: object) -> None:
    """``write_files`` for one JSON value."""
    write_text(path, json_text(content))


def read_json(source: Input) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or broken."""
    try:
        return json.loads(source.path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise source.missing() from None
    except (ValueError, RecursionError) as error:
        raise source.unusable(f"{source} is not valid JSON ({error})") from None


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(content: object) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def link_or_copy(source: Path, target: Path, mode: str) -> None:
    """Hard-link a file (``mode`` link), or copy it if the file system cannot link or ``mode`` is copy.

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


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a file or folder that is to be written. Raises UserError if another process holds it.

    The lock is the system's, on a file beside ``path``: it ends with the process that took it, however that ends, so
    that what a killed run leaves behind blocks nobody. It also holds between machines that share a disk with locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, until = _beside(path.resolve(), "lock"), time.monotonic() + SECONDS_TO_DIE
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(open(beside, "a+", encoding="utf-8"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock not shared with forked workers
            except OSError as problem:
                if problem.errno in NO_LOCKS:
                    print(
                        f"warning: {beside} cannot be locked: make sure that only one run writes there.",
                        file=sys.stderr,
                    )
                    break
                if problem.errno not in (errno.EACCES, errno.EAGAIN):
                    raise OSError(problem.errno, problem.strerror, str(beside)) from None
                if time.monotonic() < until:  # a killed process takes a moment to be gone
                    time.sleep(0.1)
                    file.close()
                    continue
                file.seek(0)
                raise UserError(
                    f"{path} is being written by another run ({file.read().strip() or 'which has just begun'}). "
                    "Wait for its end, stop it, or choose another place for this one."
                ) from None
            with suppress(FileNotFoundError):  # its last holder may have removed it since it was opened
                if os.path.samestat(os.fstat(file.fileno()), beside.stat()):
                    break
            file.close()
        file.truncate(0)
        begun = datetime.now().isoformat(" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, begun {begun}: {Path(sys.argv[0]).name}")
        file.flush()
        stack.callback(beside.unlink, missing_ok=True)
        yield


class FolderKind(NamedTuple):
    """What a folder of this project is known by: a file that each has, and the files that one may hold.

    ``files`` gives them for a folder, relative to it. It raises OSError, ValueError, KeyError or TypeError if the
    folder does not say. ``flag`` is that by which a user chooses it.
    """

    marker: str
    files: Callable[[Path], set[str]]
    flag: str = "--out-dir"


def _tile_set_files(path: Path) -> set[str]:
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not MANIFEST_KEYS <= manifest.keys():
        raise ValueError
    tiles = [*manifest["tiles"].keys()]
    return {MANIFEST, *(f"images/{tile}.tif" for tile in tiles), *(f"masks/{tile}.png" for tile in tiles)}


TILE_SET = FolderKind(MANIFEST, _tile_set_files)


def _holds_only_ours(path: Path, kind: FolderKind) -> bool:
    """Whether a folder is one that this project wrote, with nothing in it that somebody else put there.

    What file browsers and GIS programs leave does not count. Empty folders are ours.
    """
    names_below = set()
    for folder, subfolders, files in os.walk(path):
        below = Path(folder)
        names = [*files, *(name for name in subfolders if (below / name).is_symlink())]
        counted = (n for n in names if n not in JUNK and n[:2] != "._" and not n.endswith(".aux.xml"))
        names_below |= {(below / name).relative_to(path).as_posix() for name in counted}
    if not names_below:
        return True
    try:
        return kind.marker in names_below and names_below <= kind.files(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def check_out_dirs(
    paths: list[Path], overwrite: bool, *, inputs: Sequence[Path] = (), kind: FolderKind = TILE_SET
) -> None:
    """Refuse output folders that exist, are not ours, or lie in or above an input.

    Folders that are written together exist together. Where a run was cut off while it put them in their place, those
    that are ours are replaced without ``overwrite`` too.
    """
    for path in paths:
        target = path.resolve()
        for source in inputs:
            origin = Path(source).resolve()
            if target == origin or origin in target.parents or target in origin.parents:
                raise UserError(
                    f"{kind.flag} {path} and the input {source} lie in one another. Choose another {kind.flag}."
                )
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if existing and not overwrite and not _was_cut_off(paths):
        raise UserError(f"{existing[0]} exists. Replace it with --overwrite, or choose another {kind.flag}.")
    for path in existing:
        if path.is_symlink() or not path.is_dir() or not _holds_only_ours(path, kind):
            raise UserError(
                f"{path} was not written by this project, or holds other files beside what was (a folder of this "
                f"project has a {kind.marker}), so it is not deleted. Move it away, or choose another {kind.flag}."
            )


def _was_cut_off(paths: list[Path]) -> bool:
    """Whether a run was killed while it put these folders in their place, together: what is missing lies beside it."""
    missing = [path for path in paths if not path.exists()]
    return any(_beside(path, state).exists() for path in missing for state in ("partial", "replaced"))


def check_out_dir(path: Path, overwrite: bool, *, inputs: Sequence[Path] = (), kind: FolderKind = TILE_SET) -> None:
    """``check_out_dirs`` for one folder."""
    check_out_dirs([path], overwrite, inputs=inputs, kind=kind)


def replaced_folder(path: Path) -> Path | None:
    """The earlier folder, if a run was killed while it put a new one in its place; None otherwise."""
    earlier = _beside(path, "replaced")
    return earlier if earlier.is_dir() and not path.exists() else None


def _settle(paths: list[Path]) -> None:
    """Bring back the earlier folders if a run was killed while it replaced them, and remove what it left."""
    cut_off = any(replaced_folder(path) for path in paths)
    for path in paths:
        earlier = _beside(path, "replaced")
        if earlier.is_dir() and cut_off:
            if path.exists():  # new already, while others are not
                shutil.rmtree(_beside(path, "partial"), ignore_errors=True)
                os.rename(path, _beside(path, "partial"))
            os.rename(earlier, path)
        for left in (earlier, _beside(path, "partial")):
            shutil.rmtree(left, ignore_errors=True)


def _publish(paths: list[Path]) -> None:
    """Put the new folders in the place of the old ones: all of them, or none if that is interrupted."""
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
def new_folders(
    paths: list[Path], overwrite: bool, *, inputs: Sequence[Path] = (), kind: FolderKind = TILE_SET
) -> Generator[list[Path]]:
    """Give new folders beside ``paths`` to write in; they take their places together when the block ends well.

    The places are ``locked`` meanwhile. What a killed run left beside them is cleared away first.
    """
    paths = list(paths)
    check_out_dirs(paths, overwrite, inputs=inputs, kind=kind)
    folders = [_beside(path, "partial") for path in paths]
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(path))
        completes = _was_cut_off(paths) and not any(map(replaced_folder, paths))
        _settle(paths)
        check_out_dirs(paths, overwrite or completes, inputs=inputs, kind=kind)
        published = False
        try:
            for folder in folders:
                folder.mkdir()
            yield folders
            _publish(paths)
            published = True
        except OSError as problem:
            if problem.errno is None or problem.filename is not None:
                raise
            raise OSError(problem.errno, problem.strerror, str(paths[0].parent)) from None
        finally:
            if not published:
                for folder in folders:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(
    path: Path, overwrite: bool, *, inputs: Sequence[Path] = (), kind: FolderKind = TILE_SET
) -> Generator[Path]:
    """``new_folders`` for one folder."""
    with new_folders([path], overwrite, inputs=inputs, kind=kind) as (folder,):
        yield folder
