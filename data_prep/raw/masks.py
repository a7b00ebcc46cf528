"""Masks as users have them: what is stored in the file becomes class ids, and nothing is made up on the way."""

import argparse
import json
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
from common.raw_images import size_problem
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import some

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIZE_AT = 16  # bytes of a PNG that hold its width and its height
DEPTH_AT = 24  # byte of a PNG that says how many bits a sample has
LARGEST_ID = 255
Colour = tuple[int, int, int]


class MaskReading(NamedTuple):
    """How masks are read: ids that stand for void beside 0, and the colours of masks that have colours for ids."""

    void: tuple[int, ...] = ()
    colors: tuple[tuple[Colour, int], ...] = ()


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
    """What --void and --mask-colors ask for; UserError where the file of colours is none."""
    if args.mask_colors is None:
        return MaskReading(tuple(args.void), tuple((tuple(rgb), n) for n, rgb in enumerate(taxonomy.rgb().tolist())))
    expected = 'Expected a JSON object of colours and class names or ids, such as {"#1b7837": "Forest"}.'
    try:
        content = json.loads(args.mask_colors.read_text(encoding="utf-8"))
        colors = []
        for color, of in content.items():
            label = taxonomy.index(of) if isinstance(of, str) else int(of)
            if len(color) != 7 or color[0] != "#" or not 0 <= label < taxonomy.num_classes:
                raise ValueError(f"{color!r}: {of!r}")
            colors.append(((int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)), label))
    except OSError as error:
        raise UserError(f"--mask-colors {args.mask_colors}: {error.strerror}. {expected}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"--mask-colors {args.mask_colors}: {error}. {expected}") from None
    return MaskReading(tuple(args.void), tuple(colors))


def read_raw_mask(path: Path, reading: MaskReading) -> ReadMask:
    """The ids of a mask: a PNG or GeoTIFF of grey values, palette indices, or colours that all stand for a class.

    Raises:
        MaskProblem: it is missing, damaged, too large, of a format that changes ids, or holds no ids.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(DEPTH_AT + 1)
        if start.startswith(JPEG):
            raise MaskProblem(
                "mask type",
                f"{path}: holds JPEG data under the name of a PNG, which changes ids near every edge. Export the masks "
                "again as PNG or GeoTIFF from where they were drawn",
            )
        found = _read_tiff(path, reading) if start.startswith(TIFF) else _read_png(path, start, reading)
    except RasterioError as error:
        raise MaskProblem("unreadable", f"{path}: cannot be read as TIFF ({error})") from None
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
    """Pillow spreads grey values of fewer than 8 bits over 0 to 255; here they are what is stored."""
    if start.startswith(PNG) and len(start) > DEPTH_AT:  # before Pillow refuses a large one without its size
        width, height = struct.unpack(">II", start[SIZE_AT:DEPTH_AT])
        _require_size(path, height, width)
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        file = Image.open(path)
    with file:
        _require_size(path, file.height, file.width)
        mode, palette = file.mode, file.getpalette() if file.mode == "P" else None
        values = np.asarray(file)
    depth = start[DEPTH_AT] if start.startswith(PNG) and len(start) > DEPTH_AT else 8
    if mode == "P":
        colors = np.array(palette or [], np.uint8).reshape(-1, 3)
        return _indices(path, values, colors, reading)
    if mode == "L" and depth < 8:
        return ReadMask(values // (255 // (2**depth - 1)), f"grey values of {depth} bits are taken as they are stored")
    if mode in ("L", "1"):
        return ReadMask(values.astype(np.uint8), as_it_is=mode == "L" and path.suffix == ".png")
    if mode in ("I", "I;16", "I;16B"):
        return ReadMask(values.astype(np.int32), "16-bit values are taken as ids")
    if mode in ("RGB", "RGBA", "LA"):
        bands = np.moveaxis(values, -1, 0)
        clear = bands[-1] == 0 if mode in ("RGBA", "LA") else None
        return _colors(path, bands[:1] if mode == "LA" else bands[:3], clear, reading)
    raise MaskProblem("mask type", f"{path}: is a PNG of mode {mode}, expected class ids: grey, palette or colours")


def _read_tiff(path: Path, reading: MaskReading) -> ReadMask:
    with open_raster(path) as src:
        _require_size(path, src.height, src.width)
        if src.dtypes[0].startswith("complex"):
            raise MaskProblem("mask type", f"{path}: holds {src.dtypes[0]}, expected whole numbers, the class ids")
        has_alpha = src.count == 4 and src.colorinterp[3] == ColorInterp.alpha
        if src.count == 3 or has_alpha:
            bands = src.read()
            return _colors(path, bands[:3], bands[3] == 0 if has_alpha else None, reading)
        if src.count != 1:
            raise MaskProblem("mask type", f"{path}: has {src.count} bands, expected one, the class ids")
        values = src.read(1)
        colors = _color_table(src)
        done = "masks are GeoTIFF"
        if colors is not None:
            return _indices(path, values, colors, reading)
        if src.nodata is not None and not np.isnan(src.nodata) and (values == src.nodata).any():
            values[values == src.nodata] = IGNORE_INDEX
            done += f", their nodata {src.nodata:g} is void"
        if np.issubdtype(values.dtype, np.floating):
            done += ", NaN is void" if np.isnan(values).any() else ""
            values = np.where(np.isnan(values), IGNORE_INDEX, values)
            broken = values[values != np.rint(values)]
            if broken.size:
                text = f"{path}: holds values such as {broken[0]:g}, expected whole numbers, the class ids"
                raise MaskProblem("mask type", text)
        return ReadMask(values.clip(-(2.0**31), 2.0**31 - 1).astype(np.int32), done)


def _color_table(src: DatasetReader) -> np.ndarray | None:
    try:
        table = src.colormap(1)
    except ValueError:
        return None
    return np.array([table[n][:3] for n in sorted(table)], np.uint8)


def _indices(path: Path, values: np.ndarray, table: np.ndarray, reading: MaskReading) -> ReadMask:
    """Palette indices as ids, unless the colours of the palette stand for other classes than the indices."""
    label_of = dict(reading.colors)
    for index in np.unique(values).tolist():
        color = tuple(table[index].tolist()) if index < len(table) else None
        if color in label_of and color != (0, 0, 0) and label_of[color] != index:
            raise MaskProblem(
                "mask type",
                f"{path}: index {index} of its palette has the colour of class {label_of[color]}, so that it is not "
                "known which of the two is meant. Save it as grey values of the class ids",
            )
    return ReadMask(values.astype(np.int32), "palette indices are taken as ids")


def _colors(path: Path, bands: np.ndarray, clear: np.ndarray | None, reading: MaskReading) -> ReadMask:
    """Ids of (1 or 3, H, W) channels: equal ones hold the ids, others colours. ``clear``: (H, W) bool, is void."""
    done = "transparent pixels are void; " if clear is not None and clear.any() else ""
    if (bands == bands[:1]).all() and not _names_grey(bands[0], reading):
        ids = bands[0].astype(np.int32)
        done += "of equal channels one is taken"
    else:
        packed = (bands[0].astype(np.int32) << 16) | (bands[1].astype(np.int32) << 8) | bands[2]
        found, where = np.unique(packed, return_inverse=True)
        label_of = {(r << 16) | (g << 8) | b: label for (r, g, b), label in reading.colors}
        visible = np.unique(packed[~clear]) if clear is not None else found
        strange = [f"#{color:06x}" for color in visible.tolist() if color not in label_of]
        if strange:
            raise MaskProblem(
                "mask type",
                f"{path}: has colours that stand for no class ({some(strange, 3)}). Name the colours of all classes in "
                "taxonomy.json, or with --mask-colors FILE",
            )
        labels = np.array([label_of.get(color, IGNORE_INDEX) for color in found.tolist()], np.int32)
        ids = labels[where].reshape(packed.shape)
        done += "colours are taken for the classes they stand for"
    if clear is not None:
        ids = np.where(clear, IGNORE_INDEX, ids)
    return ReadMask(ids, done)


def _names_grey(values: np.ndarray, reading: MaskReading) -> bool:
    """Whether grey values are colours of classes rather than ids: all are, and one is no id."""
    greys = {color[0] for color, _ in reading.colors if len(set(color)) == 1}
    seen = set(np.unique(values).tolist())
    return seen <= greys and max(seen) > max((label for _, label in reading.colors), default=LARGEST_ID)
