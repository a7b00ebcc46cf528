"""Ways to spoil a file, mostly functions that return what is done to its path."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from common.rasters import open_raster
from tests.helpers import write_png, write_tif

Spoil = Callable[[Path], object]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def empty_folder(path: Path) -> None:
    """Put an empty folder in the place of a file or folder."""
    remove(path)
    path.mkdir()


def link(target: str) -> Spoil:
    """Puts a link in the place of a file or folder."""
    return lambda path: (remove(path), path.symlink_to(target))


def rewrite(content: bytes) -> Spoil:
    """Writes a file anew; the one that was there may be shared with other roots."""
    return lambda path: (remove(path), path.write_bytes(content))


def cut(path: Path, share: float = 0.5) -> None:
    """Keep the first part of a file."""
    whole = path.read_bytes()
    rewrite(whole[: int(len(whole) * share)])(path)


def copy_as(suffix: str) -> Spoil:
    return lambda path: shutil.copy(path, path.with_suffix(suffix))


def rename(name: str) -> Spoil:
    return lambda path: path.rename(path.with_name(name))


def repaint(change: Callable[[np.ndarray], np.ndarray] = np.asarray, **profile) -> Spoil:
    """Writes other pixels in the place of those of a GeoTIFF, or the same with another profile."""

    def spoil(path: Path) -> None:
        with open_raster(path) as src:
            pixels, origin = src.read(), (src.bounds.left, src.bounds.top)
        path.unlink()
        write_tif(path, change(pixels), origin=origin, **profile)

    return spoil


def read_ids(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def relabel(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Writes other ids in the place of those of a mask."""
    return lambda path: write_png(path, change(read_ids(path)))
