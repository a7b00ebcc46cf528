"""Raw tiles as a user brings them: finding the pairs, saying what is wrong with each, scaling to 8 bit."""

import hashlib
import os
import shlex
import struct
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from common.cli import UserError, positive_int
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import some
from common.tiles import class_pixels, georeference, is_tile_id, open_raster, unknown_ids

IMAGE_SUFFIXES = (".tif", ".tiff")
MASK_SUFFIXES = (".png",)
SIDECAR_SUFFIXES = (".xml", ".tfw", ".ovr", ".prj", ".msk", ".pgw", ".wld")
PERCENTILES = (2, 98)
SAMPLE_PER_TILE = 4096
SAMPLE_IN_ALL = 4_000_000  # pixels; 48 MB of float32 in three bands, whatever the number of tiles
OPAQUE_OR_CLEAR = 0.9  # share of an alpha band that is fully one or the other; GDAL calls any fourth 8-bit band alpha
UNITS_GAP = 8.0  # brightness of one sensor differs less than this between neighbours in rank
NO_MEASUREMENT = 1e30  # no sensor's unit; programs fill gaps with the largest numbers of a type, often undeclared
GAPS_SHARE = 0.001  # of the pixels at one value far below all others, from which they are taken for gaps
FLOAT_STEPS = 255 * float(np.finfo(np.float32).eps)  # relative range in which 8 bit are as fine as float32
LARGEST_TILE = 2**26  # pixels, 8192 x 8192: tiles are read whole, in training once a crop
LONGEST_NAME = 200  # bytes; replicas and OpenEarthMap tiles get longer ones, a file system takes 255


@dataclass(frozen=True)
class RawTile:
    """An image and a mask file with the same stem."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Problem:
    """What is wrong with one tile. ``fatal``: the tile cannot be used as it is."""

    tile_id: str
    kind: str
    text: str
    fatal: bool = True


@dataclass(frozen=True)
class RawImage:
    """The chosen bands of a raw tile.

    pixels: (3, H, W) in the file's own type. valid: (H, W) bool, False at nodata and transparent pixels, and where a
    band is NaN, infinite or beyond NO_MEASUREMENT. place: what ``georeference`` returns. as_it_is: the file is an 8-bit
    RGB GeoTIFF that needs no rewriting.
    """

    pixels: np.ndarray
    valid: np.ndarray
    place: dict
    crs: object
    transform: object
    as_it_is: bool

    @property
    def needs_stretch(self) -> bool:
        return self.pixels.dtype != np.uint8


@dataclass(frozen=True)
class Inspection:
    """What was found in one raw tile. ``pixels`` counts classes with nodata and NaN already Background.

    ``kept``: (3, P) float32 pixels for the scaling, of a tile that needs it; None where they were not asked for.
    """

    tile: RawTile
    problems: list[Problem] = field(default_factory=list)
    dtype: str = ""
    band_count: int = 0
    height: int = 0
    width: int = 0
    place: dict = field(default_factory=dict)
    invalid_share: float = 0.0
    content: str = ""
    ranges: list | None = None
    pixels: list = field(default_factory=list)
    kept: np.ndarray | None = None

    @property
    def usable(self) -> bool:
        return not any(problem.fatal for problem in self.problems)

    @property
    def needs_stretch(self) -> bool:
        return self.dtype != "uint8"


def add_bands(parser) -> None:
    parser.add_argument(
        "--bands",
        type=positive_int,
        nargs="+",
        default=[1, 2, 3],
        metavar="BAND",
        help="bands of the raw image that become red, green and blue; one number takes that band three times",
    )


def chosen_bands(args) -> tuple[int, int, int]:
    """The three bands that --bands asks for; UserError where it gives neither one nor three numbers."""
    if len(args.bands) not in (1, 3):
        raise UserError(f"--bands has {len(args.bands)} numbers, expected three (--bands 1 2 3) or one (--bands 1).")
    return tuple(args.bands * 3 if len(args.bands) == 1 else args.bands)


def printable(name: str) -> str:
    """A name in which nothing breaks a line or a table: what cannot be printed is written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def name_problem(path: Path) -> str | None:
    """Why a tile cannot have the name of this file, with the remedy; None where it can."""
    if not is_tile_id(path.stem):
        return (
            f"{printable(str(path))}: its name holds a tab, a line break, a backslash or another character that "
            "a tile's name cannot have. Rename it"
        )
    size = len(os.fsencode(path.stem))
    if size > LONGEST_NAME:
        return f"{path}: its name has {size} bytes, expected at most {LONGEST_NAME}. Rename it"
    return None


def link_problem(path: Path) -> str | None:
    """Where a symbolic link leads that leads to no file; None for anything else."""
    if not path.is_symlink() or path.exists():
        return None
    return f"{path}: is a link to {os.readlink(path)}, where no file is. Put the file there, or remove the link"


def size_problem(path: Path, height: int, width: int) -> str | None:
    """Why a raster is too large for a tile, with the remedy; None where it is not."""
    if height * width <= LARGEST_TILE:
        return None
    return (
        f"{path}: is {width} x {height} pixels, a tile may have {LARGEST_TILE:,}. Cut image and mask into smaller "
        "tiles: gdal_retile.py -ps 512 512 -targetDir FOLDER FILE"
    )


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Files of a folder with one of the suffixes (any case) by stem, in order; and what else lies there.

    Hidden files and the sidecars of GIS programs are passed over. Links that lead nowhere count as files.
    """
    found, others = defaultdict(list), []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix in SIDECAR_SUFFIXES:
            continue
        if suffix in suffixes and (path.is_file() or link_problem(path)) and not name_problem(path):
            found[path.stem].append(path)
        else:
            others.append(path)
    return dict(found), others


def find_raw(in_dir: Path) -> tuple[list[RawTile], list[Problem]]:
    """The tiles of a raw folder (images/*.tif, masks/*.png) in the order of their ids, and what does not pair.

    Raises:
        UserError: a folder is missing, or there is no image at all.
    """
    for name in ("images", "masks"):
        if not (in_dir / name).is_dir():
            raise UserError(
                f"{in_dir / name} does not exist. Expected images/*.tif and masks/*.png in {in_dir}, an image and a "
                "mask with the same name; see REPRODUCE_DATA.md, or give --in-dir."
            )
    images, other_images = files_by_stem(in_dir / "images", IMAGE_SUFFIXES)
    masks, other_masks = files_by_stem(in_dir / "masks", MASK_SUFFIXES)
    if not images:
        raise UserError(f"{in_dir / 'images'} holds no .tif or .tiff file. Put the raw images there, or give --in-dir.")
    tiles, problems = [], []
    for path in [*other_images, *other_masks]:
        wanted = (".tif or .tiff", IMAGE_SUFFIXES) if path.parent.name == "images" else (".png", MASK_SUFFIXES)
        misnamed = name_problem(path)
        if misnamed and path.suffix.lower() in wanted[1]:
            problems.append(Problem(printable(path.stem)[:LONGEST_NAME], "name", misnamed))
            continue
        text = f"{printable(str(path))}: is no {wanted[0]} file, so it is passed over"
        problems.append(Problem(printable(path.stem), "other file", text, fatal=False))
    for stem in sorted(images.keys() | masks.keys()):
        here = [*images.get(stem, ()), *masks.get(stem, ())]
        if len(images.get(stem, ())) > 1 or len(masks.get(stem, ())) > 1:
            text = f"{', '.join(map(str, here))}: several files have this name, expected one image and one mask"
            problems.append(Problem(stem, "duplicate name", text))
        elif stem not in masks:
            problems.append(Problem(stem, "no mask", f"{here[0]}: has no mask {in_dir / 'masks' / stem}.png"))
        elif stem not in images:
            problems.append(Problem(stem, "no image", f"{here[0]}: has no image {in_dir / 'images' / stem}.tif"))
        else:
            tiles.append(RawTile(stem, *here))
    return tiles, problems


def bands_problem(count: int, bands: tuple[int, int, int]) -> str | None:
    """Why an image with ``count`` bands cannot give ``bands``, with the remedy; None where it can."""
    if max(bands) <= count:
        return None
    asked = " ".join(map(str, bands if len(set(bands)) > 1 else bands[:1]))
    remedy = "--bands 1 takes the one band three times" if count == 1 else f"choose --bands among 1 to {count}"
    return f"has {count} band{'s' if count > 1 else ''}, but --bands {asked} asks for band {max(bands)}; {remedy}"


def _opaque(src, bands: tuple[int, int, int]) -> np.ndarray | None:
    """(H, W) bool, False where an alpha band or a mask says that an open raster shows nothing; None without either.

    An alpha band that is asked for is an image, and so is one with many values between clear and opaque.
    """
    flags = src.mask_flag_enums[bands[0] - 1]
    if MaskFlags.per_dataset not in flags:
        return None
    if ColorInterp.alpha in src.colorinterp:
        band = src.colorinterp.index(ColorInterp.alpha) + 1
        alpha = src.read(band)
        if band in bands or np.isin(alpha, (0, alpha.max())).mean() < OPAQUE_OR_CLEAR:
            return None
        return alpha > 0
    return src.dataset_mask() > 0


def read_raw(path: Path, bands: tuple[int, int, int]) -> RawImage:
    """The chosen bands of a raw image; UserError where it is damaged or too large, or lacks them or real numbers."""
    try:
        with open_raster(path) as src:
            few = bands_problem(src.count, bands)
            problem = f"{path}: {few}" if few else size_problem(path, src.height, src.width)
            if problem:
                raise UserError(f"{problem}.")
            return _read_bands(src, bands)
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read as TIFF ({error}).") from None


def _read_bands(src, bands: tuple[int, int, int]) -> RawImage:
    """The bands of an open raster that has them; UserError where it holds complex numbers."""
    if src.dtypes[0].startswith("complex"):
        raise UserError(f"{src.name}: holds complex numbers ({src.dtypes[0]}), expected real ones.")
    pixels = src.read(list(bands))
    nodata = [src.nodatavals[band - 1] for band in bands]
    opaque = _opaque(src, bands)
    place, crs, transform = georeference(src), src.crs, src.transform
    plain = src.driver == "GTiff" and src.count == 3 and bands == (1, 2, 3) and len(src.files) == 1
    valid = np.ones(pixels.shape[1:], bool)
    if np.issubdtype(pixels.dtype, np.floating):
        for band in pixels:
            valid &= np.abs(band) < NO_MEASUREMENT  # nor is NaN
    if all(value is not None for value in nodata):
        valid &= ~np.all([band == value for band, value in zip(pixels, nodata, strict=True)], axis=0)
    if opaque is not None:
        valid &= opaque
    as_it_is = plain and pixels.dtype == np.uint8 and (valid.all() or not pixels[:, ~valid].any())
    if place["bounds"] is None:
        crs = transform = None
    return RawImage(pixels, valid, place, crs, transform, as_it_is)


def sample(image: RawImage, limit: int) -> np.ndarray:
    """(3, P) float32 valid pixels on a regular grid of about ``limit`` points, the same ones each time."""
    height, width = image.valid.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / limit))))
    grid = (slice(step // 2, None, step), slice(step // 2, None, step))
    return image.pixels[:, *grid][:, image.valid[grid]].astype(np.float32)


def percentile_ranges(samples: np.ndarray) -> list[list[float]]:
    """[[low, high], ...] of each band: the 2nd and 98th percentile of (bands, P) pixels."""
    return np.percentile(samples.astype(np.float64), PERCENTILES, axis=1).T.tolist()


def gap_value(image: RawImage) -> float | None:
    """A negative value that fills gaps of an image though it is not declared as nodata; None where there is none.

    All bands have it in the same pixels, and it lies further below all other values than these are apart.
    """
    pixels = image.pixels[:, image.valid] if image.needs_stretch else np.zeros((3, 0))
    if not pixels.size or pixels.min() >= 0:
        return None
    lowest = pixels.min()
    gaps = (pixels == lowest).all(axis=0)
    rest = pixels[:, ~gaps].astype(np.float64)
    if gaps.mean() < GAPS_SHARE or not rest.size:
        return None
    return float(lowest) if rest.min() - lowest > rest.max() - rest.min() else None


def to_8bit(image: RawImage, ranges: list[list[float]] | None) -> np.ndarray:
    """(3, H, W) uint8: each band scaled from its range to 0-255, cut off beyond it; invalid pixels 0.

    A range that is narrower than 255 steps of float32 is widened to that, so that a constant band stays constant
    whatever its rounding. An 8-bit image is not scaled; ``ranges`` is None for a tile without a valid pixel.
    """
    whole = image.valid.all()
    if not image.needs_stretch:
        return image.pixels if whole else np.where(image.valid, image.pixels, np.uint8(0))
    scaled = np.zeros(image.pixels.shape, np.uint8)
    for band, (low, high), out in zip(image.pixels, ranges or [], scaled, strict=bool(ranges)):
        band = band if whole else np.where(image.valid, band, low)
        values = np.subtract(band, low, dtype=np.float64)
        narrowest = max(FLOAT_STEPS * max(abs(low), abs(high)), float(np.finfo(np.float32).tiny))
        values *= 255 / max(high - low, narrowest)
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=out, casting="unsafe")
    if not whole:
        scaled[:, ~image.valid] = 0
    return scaled


def mask_problems(mask: np.ndarray, path: Path, taxonomy: Taxonomy) -> str | None:
    """What is wrong with the ids of a (H, W) uint8 mask; None where all are classes."""
    unknown = unknown_ids(mask, taxonomy.num_classes)
    if not unknown:
        return None
    remedy = f"; write 0 ({taxonomy.void}) where nothing is labelled" if 255 in unknown else ""
    return f"{path}: ids {unknown} are not classes, expected 0-{taxonomy.num_classes - 1}{remedy}"


def _read_mask(tile: RawTile) -> tuple[np.ndarray | None, Problem | None]:
    lost = link_problem(tile.mask)
    if lost:
        return None, Problem(tile.id, "link", lost)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            file = Image.open(tile.mask)
        with file:
            large = size_problem(tile.mask, file.height, file.width)
            mode, mask = file.mode, None if large else np.asarray(file)
        if large:
            return None, Problem(tile.id, "too large", large)
    except Image.DecompressionBombError:
        with open_raster(tile.mask) as src:  # which reads no pixel
            return None, Problem(tile.id, "too large", size_problem(tile.mask, src.height, src.width))
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        return None, Problem(tile.id, "unreadable", f"{tile.mask}: cannot be read as PNG ({error})")
    if mode != "L":
        text = f"{tile.mask}: is a PNG of mode {mode}, expected one 8-bit grey channel of class ids (mode L)"
        if mode == "P":
            text += (
                ". Where its palette indices are the class ids, save it again without the palette: "
                "Image.fromarray(numpy.array(Image.open(path))).save(path), with PIL"
            )
        return None, Problem(tile.id, "mask type", text)
    return mask, None


def inspect(tile: RawTile, *, bands: tuple[int, int, int], taxonomy: Taxonomy, keep: int = 0) -> Inspection:
    """Read a raw tile whole and say everything that is wrong with it; raises nothing for a bad tile.

    About ``keep`` pixels are kept of a tile that needs scaling.
    """
    problems = []
    mask, problem = _read_mask(tile)
    if problem:
        problems.append(problem)
    else:
        unknown = mask_problems(mask, tile.mask, taxonomy)
        if unknown:
            problems.append(Problem(tile.id, "unknown ids", unknown))
    lost = link_problem(tile.image)
    if lost:
        return Inspection(tile, [*problems, Problem(tile.id, "link", lost)])
    try:
        with open_raster(tile.image) as src:
            count, dtype = src.count, src.dtypes[0]
            size = src.height, src.width
            large = size_problem(tile.image, *size)
            if large:
                return Inspection(tile, [*problems, Problem(tile.id, "too large", large)])
            if mask is not None and mask.shape != size:
                text = f"{tile.mask}: is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}"
                problems.append(Problem(tile.id, "size mismatch", text))
            few = bands_problem(count, bands)
            if few:
                problems.append(Problem(tile.id, "bands", f"{tile.image}: {few}"))
            image = None if few else _read_bands(src, bands)
            place = georeference(src) if image is None else image.place
    except (RasterioError, OSError) as error:
        problems.append(Problem(tile.id, "unreadable", f"{tile.image}: cannot be read as TIFF ({error})"))
        return Inspection(tile, problems)
    except UserError as error:
        problems.append(Problem(tile.id, "pixel type", str(error)))
        return Inspection(tile, problems)
    nowhere = place_problem(place, tile.image)
    if nowhere:
        problems.append(Problem(tile.id, "place", nowhere))
    facts = {"dtype": dtype, "band_count": count, "height": size[0], "width": size[1], "place": place}
    if image is None or mask is None or mask.shape != size:
        return Inspection(tile, problems, **facts)
    valid = image.valid
    gap = gap_value(image)
    if gap is not None:
        text = f"{tile.image}: {gap:g} fills gaps in all bands, is not declared as nodata and would spoil the scaling. "
        text += f"Declare it where it is: gdal_edit.py -a_nodata {gap:g} {shlex.quote(str(tile.image))}"
        problems.append(Problem(tile.id, "undeclared nodata", text))
    if not valid.all():
        text = f"{tile.image}: {1 - valid.mean():.1%} of its pixels are nodata, transparent, NaN, infinite or beyond "
        text += f"{NO_MEASUREMENT:g}, and become {taxonomy.void}"
        problems.append(Problem(tile.id, "nodata", text, fatal=False))
    pixels = class_pixels(mask if valid.all() else np.where(valid, mask, np.uint8(IGNORE_INDEX)), taxonomy.num_classes)
    if not pixels[1:].any():
        problems.append(Problem(tile.id, "no labelled pixel", f"{tile.mask}: has no labelled pixel", fatal=False))
    sampled = sample(image, SAMPLE_PER_TILE)
    constant = [band for band, values in zip(bands, sampled, strict=True) if values.size > 1 and not np.ptp(values)]
    if constant and pixels.size:
        text = f"{tile.image}: band {' and '.join(map(str, sorted(set(constant))))} has one value throughout"
        problems.append(Problem(tile.id, "constant band", text, fatal=False))
    content = hashlib.sha256(f"{image.pixels.dtype}{image.pixels.shape}".encode())
    content.update(np.ascontiguousarray(image.pixels if valid.all() else np.where(valid, image.pixels, 0)))
    return Inspection(
        tile,
        problems,
        **facts,
        invalid_share=float(1 - valid.mean()),
        content=content.hexdigest(),
        ranges=percentile_ranges(sampled) if sampled.size else None,
        pixels=pixels.tolist(),
        kept=(sampled if keep == SAMPLE_PER_TILE else sample(image, keep)) if keep and image.needs_stretch else None,
    )


def place_problem(place: dict, path: Path) -> str | None:
    """Why a tile cannot lie where its file says, with the remedy; None where it can, or has no place."""
    if place["bounds"] is None:
        return None
    remedy = f"Give it its own system: gdal_edit.py -a_srs EPSG:CODE {shlex.quote(str(path))}"
    left, bottom, right, top = place["bounds"]
    if not np.isfinite(place["bounds"]).all() or left == right or bottom == top:
        return f"{path}: its bounds {place['bounds']} enclose no ground. Correct its geotransform: gdal_edit.py -a_ullr"
    crs = CRS.from_wkt(place["crs"]) if place["crs"] else None
    if crs is not None and crs.is_geographic and (max(abs(left), abs(right)) > 540 or max(abs(bottom), abs(top)) > 91):
        return (
            f"{path}: lies at {left:g}, {bottom:g} in {system_name(place['crs'])}, which counts in degrees, so that it "
            f"lies nowhere on earth. {remedy}"
        )
    return None


def system_name(crs: str | None) -> str:
    """A short name of a coordinate system given as WKT."""
    if crs is None:
        return "no known system"
    system = CRS.from_wkt(crs)
    code = system.to_epsg()
    return f"EPSG:{code}" if code else crs.split('"')[1]


def mixed_systems(inspections: list[Inspection]) -> str | None:
    """How many tiles are in which coordinate system, where they are in several; None where all are in one."""
    systems = Counter(found.place["crs"] for found in inspections if found.place["bounds"] is not None)
    if len(systems) < 2:
        return None
    names = [f"{count} in {system_name(crs)}" for crs, count in systems.most_common()]
    rarest = systems.most_common()[-1][0]
    odd = [f.tile.id for f in inspections if f.place["bounds"] is not None and f.place["crs"] == rarest]
    return (
        f"tiles are in {len(systems)} coordinate systems, {', '.join(names)} ({some(odd)}): a tile with a wrong one is "
        "put on other ground than its neighbours. Where it is wrong: gdal_edit.py -a_srs EPSG:CODE FILE"
    )


def repeated_images(inspections: list[Inspection]) -> dict[str, str]:
    """{tile id: id of the first tile with the same image} of each tile that repeats an earlier one."""
    first, repeated = {}, {}
    for found in inspections:
        if found.content:
            original = first.setdefault(found.content, found.tile.id)
            if original != found.tile.id:
                repeated[found.tile.id] = original
    return repeated


def mixed_units(inspections: list[Inspection]) -> str | None:
    """Why one range cannot serve all tiles that need scaling, or None where it can.

    Tiles are ranked by their brightest band's 98th percentile. A gap of more than UNITS_GAP in that rank, with
    at least two tiles and one tile in fifty on each side, means other units (reflectance beside counts, say).
    """
    needing = [found for found in inspections if found.needs_stretch and found.ranges]
    tops = np.sort([max(abs(high) for _, high in found.ranges) for found in needing])
    tops = tops[tops > 0]
    margin = max(2, len(tops) // 50)
    ratios = tops[1:] / tops[:-1]
    inner = ratios[margin - 1 : len(ratios) - margin + 1]
    if not inner.size or inner.max() <= UNITS_GAP:
        return None
    at = int(inner.argmax()) + margin
    return (
        f"{at} tiles have values up to about {np.median(tops[:at]):.3g}, {len(tops) - at} up to about "
        f"{np.median(tops[at:]):.3g}: they seem to be in different units, which one range cannot serve; "
        "use --stretch tile"
    )
