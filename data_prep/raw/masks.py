"""Masks as users have them: what is stored in the file becomes class ids, and nothing is made up on the way."""

import argparse
import json
import re
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from common.cli import Parser
from common.errors import UserError
from common.rasters import open_raster
from common.raw_images import color_table, size_problem
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import some

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIZE_AT = 16  # bytes of a PNG that hold its width and its height
DEPTH_AT = 24  # byte of a PNG that says how many bits a sample has
LARGEST_ID = 255
AGAIN = "Export the masks again as PNG, or as GeoTIFF that loses nothing, from where they were drawn"
Colour = tuple[int, int, int]


class MaskReading(NamedTuple):
    """How masks are read: ids that stand for void beside 0, and the colours of masks that have colours for ids.

    ``colors_decide``: these, rather than the indices, are meant in masks with a palette.
    """

    void: tuple[int, ...] = ()
    colors: tuple[tuple[Colour, int], ...] = ()
    colors_decide: bool = False

    def entries(self) -> dict:
        """What a manifest says of it: ``void``, and ``mask_colors`` if --mask-colors gave them."""
        names = {f"#{red:02x}{green:02x}{blue:02x}": label for (red, green, blue), label in self.colors}
        return {"void": list(self.void), "mask_colors": names if self.colors_decide else None}


PLAIN = MaskReading()


class ReadMask(NamedTuple):
    """What a mask holds: (H, W) ids, uint8 or int32, and in words what was done to have them, None for 8-bit greys.

    ``as_it_is``: the file is a PNG of 8-bit grey values that are the ids, as tile sets hold it.
    """

    ids: np.ndarray
    done: str | None = None
    as_it_is: bool = False


class MaskProblem(UserError):
    """A mask cannot be read as ids. ``kind`` is the sort of problem."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def add_masks(parser: Parser) -> None:
    """Add --void and --mask-colors, which ``chosen_masks`` reads."""
    add_void(parser)
    parser.add_argument(
        "--mask-colors",
        type=Path,
        metavar="FILE",
        help='JSON of colours and class names or ids, {"#1b7837": "Forest"}, for masks that have colours in place of '
        "ids (default: the colours of the taxonomy)",
    )


def add_void(parser: Parser) -> None:
    parser.add_argument(
        "--void", type=int, nargs="+", default=[], metavar="ID", help="ids of masks that are void, as 0 is"
    )


def chosen_masks(args: argparse.Namespace, taxonomy: Taxonomy) -> MaskReading:
    """What --void and --mask-colors ask for; UserError if the file of colours is none."""
    void = tuple(args.void)
    if args.mask_colors is None:
        return MaskReading(void, tuple((tuple(rgb), n) for n, rgb in enumerate(taxonomy.rgb().tolist())))
    expected = 'Expected a JSON object of colours and class names or ids, such as {"#1b7837": "Forest"}.'
    colors = []
    try:
        content = json.loads(args.mask_colors.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict) or not content:
            raise ValueError("holds no colours")
        for color, of in content.items():
            label = taxonomy.classes.index(of) if of in taxonomy.classes else of
            if type(label) is not int or not 0 <= label < taxonomy.num_classes:
                raise ValueError(f"{of!r} is no class")
            if not re.fullmatch("#[0-9a-fA-F]{6}", color):
                raise ValueError(f"{color!r} is no colour")
            colors.append(((int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)), label))
    except OSError as error:
        raise UserError(f"--mask-colors {args.mask_colors}: {error.strerror}. {expected}") from None
    except ValueError as error:
        raise UserError(f"--mask-colors {args.mask_colors}: {error}. {expected}") from None
    return MaskReading(void, tuple(colors), colors_decide=True)


def read_raw_mask(path: Path, reading: MaskReading) -> ReadMask:
    """The ids of a mask: a PNG or GeoTIFF of grey values, palette indices, or colours that all stand for a class.

    Raises:
        MaskProblem: it is missing, damaged, too large, of a format that changes ids, or holds no ids.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(DEPTH_AT + 2)
        if start.startswith(TIFF):
            found = _read_raster(path, reading, "masks are GeoTIFF")
        elif start.startswith(PNG) or not start:
            found = _read_png(path, start, reading)
        elif start.startswith(JPEG):
            raise MaskProblem("mask type", f"{path}: holds JPEG data, which change ids near every edge. {AGAIN}")
        else:
            with Image.open(path) as other:
                raise MaskProblem("mask type", f"{path}: holds {other.format} data, expected PNG or GeoTIFF. {AGAIN}")
    except RasterioError as error:
        raise MaskProblem("unreadable", f"{path}: cannot be read ({error})") from None
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise MaskProblem("unreadable", f"{path}: cannot be read as PNG ({error})") from None
    voided = np.isin(found.ids, reading.void) if reading.void else None
    if voided is None or not voided.any():
        return found
    return ReadMask(np.where(voided, found.ids.dtype.type(IGNORE_INDEX), found.ids), found.done)


def _require_size(path: Path, height: int, width: int) -> None:
    problem = size_problem(path, height, width)
    if problem:
        raise MaskProblem("too large", problem)


def _read_png(path: Path, start: bytes, reading: MaskReading) -> ReadMask:
    """Grey values, palette indices or colours of 8 bits by Pillow, others by GDAL, which keeps what is stored.

    Pillow spreads grey values of fewer bits over 0 to 255, and keeps the upper half of 16-bit colours.
    """
    depth = start[DEPTH_AT] if len(start) > DEPTH_AT else 8
    if len(start) > DEPTH_AT:  # before Pillow refuses a large one without its size
        width, height = struct.unpack(">II", start[SIZE_AT:DEPTH_AT])
        _require_size(path, height, width)
    if depth == 16:
        return _read_raster(path, reading, "16-bit values are taken as ids")
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        file = Image.open(path)
    with file:
        mode, clear = file.mode, file.info.get("transparency")
        palette = file.getpalette() if mode == "P" else None
        values = np.asarray(file)
    if mode == "P":
        table = np.full((256, 4), 255, np.uint8)
        colors = np.array(palette or [], np.uint8).reshape(-1, 3)
        table[: len(colors), :3] = colors
        if isinstance(clear, bytes):
            table[: len(clear), 3] = list(clear)
        elif clear is not None:
            table[clear, 3] = 0
        return _indices(path, values, table, reading)
    if mode in ("L", "1"):
        done = None
        if mode == "L" and depth < 8:
            values, done = (
                values // (255 // (2**depth - 1)),
                f"grey values of {depth} bits are taken as they are stored",
            )
        ids = values.astype(np.uint8)
        if isinstance(clear, int):
            return ReadMask(np.where(ids == clear, np.uint8(IGNORE_INDEX), ids), "transparent pixels are void")
        return ReadMask(ids, done, as_it_is=mode == "L" and depth == 8 and path.suffix == ".png")
    if mode in ("RGB", "RGBA", "LA"):
        bands = np.moveaxis(values, -1, 0)
        hidden = bands[-1] == 0 if mode in ("RGBA", "LA") else np.zeros(bands.shape[1:], bool)
        return _colors(path, bands[:1] if mode == "LA" else bands[:3], hidden, reading)
    raise MaskProblem("mask type", f"{path}: is a PNG of mode {mode}, expected class ids: grey, palette or colours")


def _read_raster(path: Path, reading: MaskReading, done: str) -> ReadMask:
    """The ids of a mask that GDAL reads. Its nodata, alpha and masks are void; ``done`` is said of it."""
    with open_raster(path) as src:
        _require_size(path, src.height, src.width)
        lossy = _lossy(src)
        if lossy:
            raise MaskProblem("mask type", f"{path}: is compressed by {lossy}, which changes ids. {AGAIN}")
        if len(src.subdatasets) > 1:
            pages = f"has {len(src.subdatasets)} pages, expected one, the class ids"
            raise MaskProblem("mask type", f"{path}: {pages}")
        shown = [n for n, color in enumerate(src.colorinterp, start=1) if color != ColorInterp.alpha]
        if len(shown) not in (1, 3) or src.dtypes[0].startswith("complex"):
            text = f"has {src.count} bands of {src.dtypes[0]}, expected one, the class ids"
            raise MaskProblem("mask type", f"{path}: {text}")
        bands = src.read(shown)
        hidden = np.zeros(bands.shape[1:], bool)
        for band in range(1, src.count + 1):
            hidden |= (src.read(band) == 0) if band not in shown else (src.read_masks(band) == 0)
        if src.nodata is not None and (bands == src.nodata).all(axis=0).any():  # beside an internal mask, too
            hidden |= (bands == src.nodata).all(axis=0)
            done += f", their nodata {src.nodata:g} is void"
        table = color_table(src)
    if table is not None:
        found = _indices(path, bands[0], table, reading)
        return ReadMask(np.where(hidden, IGNORE_INDEX, found.ids), found.done)
    if np.issubdtype(bands.dtype, np.floating) and np.isnan(bands).any():
        done += ", NaN is void"
    values = _whole_numbers(path, bands, hidden)
    if len(shown) == 1:
        return ReadMask(np.where(hidden, IGNORE_INDEX, values[0]), done)
    return _colors(path, values, hidden, reading)


def _lossy(src: DatasetReader) -> str | None:
    """The compression of an open raster, if it does not give back what was stored; None if it does."""
    tags = src.tags(ns="IMAGE_STRUCTURE")
    name = tags.get("COMPRESSION", "")
    if "JPEG" in name:
        return name
    if name in ("WEBP", "JXL") and not tags.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSLESS"):
        return name
    return name if name.startswith("LERC") and float(tags.get("MAX_Z_ERROR", 0)) > 0 else None


def _whole_numbers(path: Path, bands: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(N, H, W) int32 of values of any type; those that are hidden or NaN are void. ``hidden``: (H, W) bool."""
    if np.issubdtype(bands.dtype, np.floating):
        bands = np.where(hidden | np.isnan(bands), IGNORE_INDEX, bands)
        broken = bands[bands != np.rint(bands)]
        if broken.size:
            text = f"{path}: holds values such as {broken[0]:g}, expected whole numbers, the class ids"
            raise MaskProblem("mask type", text)
    return bands.astype(np.float64).clip(-(2.0**31), 2.0**31 - 1).astype(np.int32)


def _indices(path: Path, values: np.ndarray, table: np.ndarray, reading: MaskReading) -> ReadMask:
    """Ids of (H, W) indices in a (N, 4) table of colours: the indices, or what the colours stand for.

    The colours decide if --mask-colors names them all. Without it, indices that the colours contradict are refused.
    Indices of clear colours are void.
    """
    seen = np.unique(values).tolist()
    label_of = dict(reading.colors)
    named = {n: label_of.get(tuple(table[n, :3].tolist())) for n in seen if n < len(table) and table[n, 3]}
    ids = np.arange(max(seen) + 1, dtype=np.int32)
    ids[[n for n in seen if n < len(table) and not table[n, 3]]] = IGNORE_INDEX
    if reading.colors_decide and None not in named.values():
        for n, label in named.items():
            ids[n] = label
        return ReadMask(ids[values], "colours of the palette are taken for the classes they stand for")
    for n, label in named.items():
        red, green, blue = table[n, :3].tolist()
        grey = red if red == green == blue and 0 < red <= max(label_of.values(), default=LARGEST_ID) else None
        other = grey if grey is not None else label if (red, green, blue) != (0, 0, 0) else None
        if other not in (None, n):
            text = (
                f"{path}: index {n} of its palette has the colour of class {other}, so that it is not known which of "
            )
            text += "the two is meant. Save it as grey values of the class ids, or name its colours with --mask-colors"
            raise MaskProblem("mask type", text)
    return ReadMask(ids[values], "palette indices are taken as ids")


def _colors(path: Path, bands: np.ndarray, hidden: np.ndarray, reading: MaskReading) -> ReadMask:
    """Ids of (1 or 3, H, W) channels: equal ones hold the ids, others colours. ``hidden``: (H, W) bool, is void."""
    done = "transparent pixels are void; " if hidden.any() else ""
    if (bands == bands[:1]).all() and not _names_grey(bands[0], reading):
        ids = bands[0].astype(np.int32)
        done += "of equal channels one is taken"
    else:
        if bands.min() < 0 or bands.max() > 255:
            raise MaskProblem(
                "mask type", f"{path}: has colours beyond 0-255, expected class ids, or colours of 8 bits"
            )
        packed = (bands[0].astype(np.int32) << 16) | (bands[1].astype(np.int32) << 8) | bands[2]
        found, where = np.unique(packed, return_inverse=True)
        label_of = {(r << 16) | (g << 8) | b: label for (r, g, b), label in reading.colors}
        strange = [f"#{color:06x}" for color in np.unique(packed[~hidden]).tolist() if color not in label_of]
        if strange:
            raise MaskProblem(
                "mask type",
                f"{path}: has colours that stand for no class ({some(strange, 3)}). Name the colours of all classes in "
                "taxonomy.json, or with --mask-colors FILE",
            )
        labels = np.array([label_of.get(color, IGNORE_INDEX) for color in found.tolist()], np.int32)
        ids = labels[where].reshape(packed.shape)
        done += "colours are taken for the classes they stand for"
    return ReadMask(np.where(hidden, IGNORE_INDEX, ids), done)


def _names_grey(values: np.ndarray, reading: MaskReading) -> bool:
    """Whether grey values are colours of classes rather than ids: all are, and one is no id."""
    greys = {color[0] for color, _ in reading.colors if len(set(color)) == 1}
    seen = set(np.unique(values).tolist())
    return seen <= greys and max(seen) > max((label for _, label in reading.colors), default=LARGEST_ID)
