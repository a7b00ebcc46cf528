"""The bands of images: which of a raw image they are, which are shown, and which of them OpenEarthMap has."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.cli import Parser, positive_int
from common.errors import UserError
from common.schema import is_count, is_number, is_object, list_of

Bands = tuple[int, ...]  # numbers of a raw image's bands, from 1, in the order that tiles have them
RGB: Bands = (1, 2, 3)  # also of sets whose manifests name none, as those of OpenEarthMap

# The forms of these values in a manifest.
BANDS_FORM = list_of(lambda value: is_count(value) and value > 0)
STATISTICS_FORM = {"mean": list_of(is_number), "std": list_of(is_number)}
FILL_FORM = list_of(lambda value: is_count(value) and value < 256)


class BandStatistics(NamedTuple):
    """Mean and standard deviation of each band of a set's 8-bit images, in values of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def over(cls, means: np.ndarray, squares: np.ndarray, pixels: np.ndarray) -> "BandStatistics":
        """Of images of which (N, B) mean, (N, B) mean square, in grey values, and (N,) number of pixels are known."""
        mean, square = (np.average(values, axis=0, weights=pixels) for values in (means, squares))
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return cls(tuple((mean / 255).tolist()), tuple((std / 255).tolist()))

    @classmethod
    def read(cls, recorded: dict) -> "BandStatistics":
        """Those that a manifest records in STATISTICS_FORM."""
        return cls(tuple(recorded["mean"]), tuple(recorded["std"]))

    def to_json(self) -> dict:
        return {"mean": list(self.mean), "std": list(self.std)}


def named(bands: Sequence[int]) -> str:
    """The numbers of bands, as a flag takes them."""
    return " ".join(map(str, bands))


def same_bands(first: Sequence[int] | None, second: Sequence[int] | None) -> bool:
    """Whether two sets have the same bands; of a set that names none it is only known that it has three."""
    if first is None or second is None:
        return len(first or RGB) == len(second or RGB)
    return list(first) == list(second)


def positions(bands: Bands, wanted: Sequence[int], flag: str) -> tuple[int, ...]:
    """Where ``wanted`` stand among the bands of tiles, a repeated one at its repetitions if there are as many.

    Raises UserError, which names ``flag``, if one is not there.
    """
    lacking = [number for number in wanted if number not in bands]
    if lacking:
        raise UserError(
            f"{flag} {named(wanted)} names band {lacking[0]}, but the tiles have {named(bands)}. Choose among these."
        )
    found = []
    for n, number in enumerate(wanted):
        places = [place for place, band in enumerate(bands) if band == number]
        found.append(places[min(list(wanted[:n]).count(number), len(places) - 1)])
    return tuple(found)


def three_bands(image: np.ndarray, at: Sequence[int] = ()) -> np.ndarray:
    """(B, H, W) → (3, H, W) to look at: the bands at three positions, else the first three, or the first three times.

    Whatever compares images with those of other bands compares these three.
    """
    if not at and len(image) >= 3:
        return image[:3]
    return image[list(at or (0, 0, 0))]


def to_picture(image: np.ndarray, at: Sequence[int] = ()) -> np.ndarray:
    """(B, H, W) → (H, W, 3), of ``three_bands``."""
    return np.moveaxis(three_bands(image, at), 0, -1)


def add_oem_bands(parser: Parser) -> None:
    """Add --oem-bands, which ``chosen_oem_bands`` reads."""
    parser.add_argument(
        "--oem-bands",
        type=positive_int,
        nargs=3,
        metavar=("RED", "GREEN", "BLUE"),
        help="the three bands of the tiles that correspond to OpenEarthMap's red, green and blue, numbered as --bands "
        "(default: the first three)",
    )


def chosen_oem_bands(bands: Bands, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The three bands of tiles that are red, green and blue of OpenEarthMap; a single band is all three.

    Raises:
        UserError: tiles of two bands, unless --oem-bands names them; a band that the tiles do not have.
    """
    if asked is not None:
        positions(bands, asked, "--oem-bands")
        return tuple(asked)
    if len(bands) == 2:
        raise UserError(
            f"the tiles have the bands {named(bands)}, and OpenEarthMap red, green and blue. Name which of them these "
            f"are: --oem-bands {named((bands[0], bands[0], bands[1]))}"
        )
    return bands[:3] if len(bands) >= 3 else bands * 3


def add_show(parser: Parser) -> None:
    """Add --show, which ``shown_positions`` reads."""
    parser.add_argument(
        "--show",
        type=positive_int,
        nargs=3,
        metavar=("RED", "GREEN", "BLUE"),
        help="bands of the tiles to show, as --bands of the split calls them (default: the first three)",
    )


def shown_positions(bands: Bands, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Where the three bands that --show asks for stand in tiles, as ``three_bands`` takes it."""
    return positions(bands, asked, "--show") if asked else (0, 1, 2) if len(bands) >= 3 else (0, 0, 0)


class Filling(NamedTuple):
    """How an image of OpenEarthMap becomes one of other bands.

    at: where its red, green and blue stand; a band that stands for several gets their mean.
    values: (B,) grey value of each band that it lacks; of others not used.
    """

    at: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def read(cls, manifest: dict) -> "Filling | None":
        """That of a set whose manifest records one: ``oem_bands``, their numbers, and ``oem_fill``, the values."""
        if manifest.get("oem_fill") is None:
            return None
        return cls(positions(tuple(manifest["bands"]), manifest["oem_bands"], "oem_bands"), tuple(manifest["oem_fill"]))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) uint8 → (B, H, W) uint8."""
        filled = np.empty((len(self.values), *image.shape[1:]), np.uint8)
        for band, value in enumerate(self.values):
            sources = [number for number, at in enumerate(self.at) if at == band]
            if len(sources) > 1:
                filled[band] = np.rint(image[sources].mean(axis=0))
            else:
                filled[band] = image[sources[0]] if sources else value
        return filled

    def lacking(self, bands: Bands) -> dict[int, int]:
        """By number the bands that it fills, with their grey values."""
        return {bands[n]: value for n, value in enumerate(self.values) if n not in self.at}


def filling_of(bands: Bands, statistics: BandStatistics | None, oem_bands: Sequence[int]) -> Filling | None:
    """What makes images of OpenEarthMap into tiles of ``bands``; None if they are such tiles already.

    ``statistics``: of train, whose mean fills a band that OpenEarthMap lacks.

    Raises UserError if it lacks one and there are no statistics, as of a split of an early version.
    """
    at = positions(bands, oem_bands, "--oem-bands")
    if at == tuple(range(len(bands))):
        return None
    if statistics is None:
        raise UserError("the train split does not record the mean of its bands. Make the split again with --overwrite.")
    return Filling(at, tuple(round(255 * mean) for mean in statistics.mean))


def bands_form_problem(manifest: dict) -> str | None:
    """What is wrong with what a manifest says of bands, beyond the forms of its values; None if nothing is."""
    count = len(manifest.get("bands") or RGB)
    statistics, fill = manifest.get("band_statistics"), manifest.get("oem_fill")
    if is_object(statistics) and {len(statistics["mean"]), len(statistics["std"])} != {count}:
        return f"it has {count} bands, and statistics of {len(statistics['mean'])}"
    if statistics is None and count > len(RGB):
        return f"it has {count} bands and no statistics of them"
    known = fill is None or manifest.get("bands") and set(manifest.get("oem_bands") or [0]) <= set(manifest["bands"])
    if not known or fill is not None and len(fill) != count:
        return "it does not say how images of OpenEarthMap get its bands"
    return None
