"""Finding raw tiles as a user brings them: pairs of an image and a mask, and names and links that will not do."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from common.tiles import is_tile_id
from data_prep.raw.masks import PLAIN, MaskReading, read_raw_mask

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".jp2")
MASK_SUFFIXES = (".png", *TIFF_SUFFIXES)
# In lower case, as are the folders that network drives and archives of macOS add.
SIDECAR_SUFFIXES = (
    ".xml", ".aux", ".ovr", ".prj", ".msk", ".wld",
    ".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpw", ".jpgw", ".jpegw", ".j2w", ".jp2w",
)  # fmt: skip
LITTER_FOLDERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information")
LONGEST_NAME = 200  # bytes; replicas and OpenEarthMap tiles get longer ones, a file system takes 255


@dataclass(frozen=True)
class RawTile:
    """An image and a mask file, and how the mask is read."""

    id: str
    image: Path
    mask: Path
    masks: MaskReading = PLAIN

    def read_mask(self) -> np.ndarray:
        """(H, W) uint8 class ids; raises UserError if the mask cannot be read."""
        return read_raw_mask(self.mask, self.masks).ids.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one tile. ``fatal``: the tile cannot be used as it is."""

    tile_id: str
    kind: str
    text: str
    fatal: bool = True


def printable(name: str) -> str:
    """A name in which nothing breaks a line or a table: what cannot be printed is written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def is_litter(below: PurePath) -> bool:
    """Whether a file of the raw folder is passed over in silence: hidden, a sidecar, or in a folder of no tiles."""
    hidden = any(part.startswith(".") or part.lower() in LITTER_FOLDERS for part in below.parts)
    return hidden or below.suffix.lower() in SIDECAR_SUFFIXES


def name_problem(path: Path, name: str | None = None) -> str | None:
    """Why a tile cannot have the name of this file, with the remedy; None if it can.

    ``name``: what the tile would be called, if that is not the name of the file.
    """
    name = path.stem if name is None else name
    if not is_tile_id(name):
        return (
            f"{printable(str(path))}: its name holds a tab, a line break, a backslash or another character that "
            "a tile's name cannot have. Rename it"
        )
    size = len(os.fsencode(name))
    if size > LONGEST_NAME:
        called = "" if name == path.stem else " together with its folders"
        return f"{path}: its name{called} has {size} bytes, expected at most {LONGEST_NAME}. Rename it"
    return None


def link_problem(path: Path) -> str | None:
    """Where a symbolic link leads that leads to no file; None for anything else."""
    if not path.is_symlink() or path.exists():
        return None
    return f"{path}: is a link to {os.readlink(path)}, where no file is. Put the file there, or remove the link"


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Files of a folder with one of the suffixes (any case) by stem, in order; and what else lies there.

    Hidden files and the sidecars of GIS programs are passed over. Links that lead nowhere count as files.
    """
    by_stem, others = defaultdict(list), []
    for path in sorted(folder.iterdir()):
        if is_litter(path.relative_to(folder)):
            continue
        if path.suffix.lower() in suffixes and (path.is_file() or link_problem(path)) and not name_problem(path):
            by_stem[path.stem].append(path)
        else:
            others.append(path)
    return dict(by_stem), others
