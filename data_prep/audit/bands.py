"""What each band of the raw images holds: its values, whether it is constant or a copy, which one is near infrared."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rasterio.errors import RasterioError

from common.bands import named
from common.cli import map_progress
from common.errors import UserError
from common.figures import new_figure
from common.rasters import open_raster
from common.raw_images import (
    SAMPLE_PER_TILE,
    Reading,
    band_count,
    colors_of,
    measured_type,
    read_whole,
    sample,
    size_problem,
)
from data_prep.raw.files import Problem

LOOKED_AT = 64  # tiles, evenly among all
SHARES = (2, 25, 50, 75, 98)  # percentiles that are told of a band
LINES = {"red": "#c0392b", "green": "#27ae60", "blue": "#2e6fbd", "nir": "#7d3c98"}
OTHERS = ("#7d3c98", "#b9770e", "#117a65", "#555555")
UNDECLARED = ("undefined", "alpha")  # GDAL calls any fourth band of 8 bit alpha
# Correlations, over pixels of land, from and up to which a band may be near infrared. On generated landscapes it has
# 0.3 with how green a pixel is, red, green and blue under 0; and 0.2 to 0.3 with red, green and blue 0.9.
LEAST_WITH_GREENNESS = 0.1
MOST_WITH_RED = 0.6


class Sample(NamedTuple):
    """Some pixels of all bands of a raw image: its type, what it calls its bands, and (B, P) float32 values."""

    dtype: str
    colors: tuple[str, ...]
    values: np.ndarray


class BandsSeen(NamedTuple):
    """All bands of the tiles of one type and number of bands.

    colors: what most of the files call each; values: (B, P) float32 some valid pixels of each.
    """

    dtype: str
    tiles: int
    colors: tuple[str, ...]
    values: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.dtype} with {len(self.colors)} bands"

    @property
    def constant(self) -> list[int]:
        """The bands of one value."""
        return [n for n, band in enumerate(self.values, start=1) if not np.ptp(band)]

    @property
    def copies(self) -> dict[int, int]:
        """The bands that equal an earlier one, which is not constant, and that one."""
        found: dict[int, int] = {}
        for n in range(1, len(self.values)):
            twins = (m for m in range(n) if m + 1 not in found and np.array_equal(self.values[m], self.values[n]))
            twin = next(twins, None)
            if twin is not None and twin + 1 not in self.constant:
                found[n + 1] = twin + 1
        return found

    @property
    def near_infrared(self) -> int | None:
        """The band that is likely near infrared; None if none is, or red and green are not declared.

        It is the one that the files call so. Otherwise, of those that they do not name, the one that goes most with how
        green a pixel is, (green - red) / (green + red), as the leaves of plants make it, and little with red.
        """
        if "nir" in self.colors:
            return self.colors.index("nir") + 1
        if not {"red", "green"} <= set(self.colors):
            return None
        red, green = (self.values[self.colors.index(name)].astype(np.float64) for name in ("red", "green"))
        total = green + red
        seen = total > 0
        greenness = (green - red)[seen] / total[seen]
        left_out = {*self.constant, *self.copies}
        likely = {}
        for n, (band, color) in enumerate(zip(self.values, self.colors, strict=True), start=1):
            if color in UNDECLARED and n not in left_out and np.ptp(band[seen]) and np.ptp(greenness):
                _, with_greenness, with_red = np.corrcoef([band[seen], greenness, red[seen]])[0]
                if with_greenness >= LEAST_WITH_GREENNESS and with_red <= MOST_WITH_RED:
                    likely[n] = with_greenness
        return max(likely, key=lambda n: likely[n], default=None)

    def to_json(self) -> dict:
        shares = np.percentile(self.values, SHARES, axis=1).T.tolist()
        return {
            "dtype": self.dtype,
            "tiles_looked_at": self.tiles,
            "bands": [
                {"band": n, "color": color, "percentiles": dict(zip(map(str, SHARES), of_band, strict=True))}
                for n, (color, of_band) in enumerate(zip(self.colors, shares, strict=True), start=1)
            ],
            "constant": self.constant,
            "copies": {str(n): twin for n, twin in self.copies.items()},
            "near_infrared": self.near_infrared,
        }


def look(path: Path) -> Sample | None:
    """Some valid pixels of all bands of an image; None of one that cannot be read or has none."""
    try:
        with open_raster(path) as src:
            if size_problem(path, src.height, src.width):
                return None
            bands = tuple(range(1, band_count(src) + 1))
            values = sample(read_whole(src, Reading(bands, alpha=False)), SAMPLE_PER_TILE)
            return Sample(measured_type(src, bands), colors_of(src, bands), values) if values.size else None
    except (RasterioError, OSError, UserError):
        return None


def look_at_bands(images: Sequence[Path], workers: int) -> list[BandsSeen]:
    """All bands of LOOKED_AT of the images, those of most tiles first."""
    step = max(1, math.ceil(len(images) / LOOKED_AT))
    alike: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for found in map_progress(look, images[::step], workers=workers, desc="Looking at bands"):
        if found is not None:
            alike[found.dtype, len(found.colors)].append(found)
    return [
        BandsSeen(
            dtype,
            len(of_kind),
            max((one.colors for one in of_kind), key=[one.colors for one in of_kind].count),
            np.concatenate([one.values for one in of_kind], axis=1),
        )
        for (dtype, _), of_kind in sorted(alike.items(), key=lambda kind: -len(kind[1]))
    ]


def band_problems(seen: Sequence[BandsSeen]) -> list[Problem]:
    """The bands that tell nothing: constant ones, and copies of others."""
    problems = []
    for bands in seen:
        where = f"of the {bands.tiles} tiles of {bands.name} that were looked at"
        for n in bands.constant:
            problems.append(Problem("", "constant band", f"band {n} {where} has one value throughout", fatal=False))
        for n, twin in bands.copies.items():
            problems.append(Problem("", "copied band", f"band {n} {where} is a copy of band {twin}", fatal=False))
    return problems


def describe_bands(seen: Sequence[BandsSeen], chosen: Sequence[int]) -> list[str]:
    """Which band of the images is likely near infrared, and how to take it if it is not ``chosen``."""
    told = []
    for bands in seen:
        nir = bands.near_infrared
        if nir is not None:
            remedy = "" if nir in chosen else f"; --bands {named([*chosen, nir])} takes it, too"
            told.append(f"band {nir} of the tiles of {bands.name} is likely near infrared{remedy}")
    return told


def band_rows(seen: Sequence[BandsSeen]) -> list[list[str]]:
    """Type, band, colour and SHARES of each band, as rows of a table."""
    return [
        [bands.dtype, str(of_band["band"]), of_band["color"], *(f"{v:.3g}" for v in of_band["percentiles"].values())]
        for bands in seen
        for of_band in bands.to_json()["bands"]
    ]


def plot_bands(seen: Sequence[BandsSeen]) -> Figure:
    """Figure of how the values of each band are distributed, a panel for each type of image."""
    figure = new_figure(8, 3.2 * len(seen))
    for axes, bands in zip(figure.subplots(len(seen), 1, squeeze=False)[:, 0], seen, strict=True):
        low, high = np.percentile(bands.values, (0.5, 99.5))
        edges = np.linspace(low, high if high > low else low + 1, 65)
        for n, (color, values) in enumerate(zip(bands.colors, bands.values, strict=True), start=1):
            shares = np.histogram(values, edges)[0] / values.size
            line = LINES.get(color, OTHERS[(n - 1) % len(OTHERS)])
            axes.stairs(100 * shares, edges, color=line, label=f"band {n} ({color})")
        axes.set(title=f"{bands.tiles} tiles of {bands.name}", xlabel="value", ylabel="share of the pixels, %")
        axes.legend(frameon=False, fontsize=8)
    return figure
