"""The range of values that becomes 0 to 255 in images that are not 8-bit."""

import argparse

import numpy as np

from common.errors import UserError
from common.raw_images import PERCENTILES, percentile_ranges
from common.text import warn
from data_prep.raw.collection import mixed_units
from data_prep.raw.inspect import Inspection


def choose_stretch(args: argparse.Namespace, inspections: list[Inspection], in_train: np.ndarray) -> dict | None:
    """The ``stretch`` of the manifests; None if every tile is 8-bit. Only train tiles are looked at.

    ``in_train``: (N,) bool, for each inspection. Raises UserError if no tile of train gives a range.
    """
    if not any(i.needs_stretch for i in inspections):
        return None
    if args.stretch == "tile":
        return {"kind": "tile", "percentiles": list(PERCENTILES), "ranges": None}
    needing = [i for i, train in zip(inspections, in_train, strict=True) if i.needs_stretch and i.ranges and train]
    if not needing:
        raise UserError(
            f"{args.in_dir}: some tiles are not 8-bit, but none of them is in train, so that train gives no range to "
            "scale them. Use --stretch tile, or another --seed."
        )
    mixed = mixed_units(needing)
    if mixed:
        warn(f"train: {mixed}")
    ranges = percentile_ranges(np.concatenate([np.asarray(i.kept) for i in needing], axis=1))
    return {"kind": "train", "percentiles": list(PERCENTILES), "ranges": ranges}


def print_stretch(stretch: dict, count: int) -> None:
    """Say how the tiles that are not 8-bit were scaled."""
    if stretch["ranges"] is None:
        print(f"{count} tiles scaled to 8 bit, each by its own range")
        return
    bands = [f"band {n} {low:.3g}\N{EN DASH}{high:.3g}" for n, (low, high) in enumerate(stretch["ranges"], start=1)]
    print(f"{count} tiles scaled to 8 bit, range of train: {', '.join(bands)}")
