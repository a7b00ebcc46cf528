"""What two sets share: tiles, areas, pictures."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.artifacts import SHARED_KINDS
from common.bands import three_bands
from common.cli import map_progress
from common.ground import SLIVER, not_comparable, overlapping
from common.rasters import read_image
from common.text import some
from common.tiles import shared_ids
from data_prep.leakage.sets import ImageLook, Part, finding
from data_prep.resemblance.pairs import confirm, likely_pairs


def shared_tiles(part: Part, other: Part) -> list[tuple[str, str, str]]:
    """(kind, tile of part, tile of other) of each tile, file, image or ground that two sets share.

    Replicas count as their base. Ids are compared among Biodiversity sets only: OpenEarthMap has names of its own.
    """
    shared = []
    if "openearthmap" not in (part.role, other.role) or part.role == other.role:
        shared += [("tile id", name, name) for name in shared_ids(list(part.tiles), list(other.tiles))]
    seen = set()
    for key, kind in (("sha256", "image file"), ("content", "image content")):
        holders = defaultdict(list)
        for twin in other.tiles:
            holders[getattr(other.image(twin), key)].append(twin)
        for tile in part.tiles:
            image = part.image(tile)
            for twin in holders.get(getattr(image, key), ()) if getattr(image, key) else ():
                if (tile.id, twin.id) not in seen and not image.is_blank:
                    seen.add((tile.id, twin.id))
                    shared.append((kind, tile.id, twin.id))
    ignored = "ignore" in (part.tiles.manifest.get("overlaps"), other.tiles.manifest.get("overlaps"))
    pairs = [] if ignored else overlapping(part.locations(), other.locations(), SLIVER)
    shared += [("ground", part.tiles.tiles[i].id, other.tiles.tiles[j].id) for i, j in pairs]
    return shared


def pairs_apart(parts: dict[str, Part]) -> list[tuple[str, str]]:
    """The sets that must share nothing: (held out, other)."""
    names = list(parts)
    pairs = [(held, name) for held in ("val", "test") for name in names if name not in ("val", held)]
    if "OEM teacher val" in parts and "OEM teacher train" in parts:
        pairs.append(("OEM teacher val", "OEM teacher train"))
    return pairs


def read_three_bands(path: Path) -> np.ndarray:
    """(3, H, W) uint8: what the images of a file of any bands are compared by."""
    return three_bands(read_image(path))


def near_copies(parts: dict[str, Part], workers: int) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """{(held out, other): [(kind, tile, tile)]} of images that differ, but show the same pixels or one picture."""
    pairs = pairs_apart(parts)
    holders: dict[str, list[tuple[str, str]]] = defaultdict(list)
    looks: dict[str, ImageLook] = {}
    for name, part in parts.items():
        for tile in part.tiles:
            image = part.image(tile)
            if image.anchors is not None:
                holders[image.content].append((name, tile.id))
                looks[image.content] = image
    bit = {name: 1 << n for n, name in enumerate(parts)}
    inside = {content: sum({bit[name] for name, _ in tiles}) for content, tiles in holders.items()}
    against = {name: sum({bit[other] for held, other in pairs if held == name}) for name in parts}
    apart = {content: _either(against[name] for name, _ in tiles) for content, tiles in holders.items()}
    contents = list(looks)
    anchors = [np.asarray(looks[content].anchors) for content in contents]
    thumbnails = [looks[content].thumbnail for content in contents]
    held = np.array([bool(apart[content]) for content in contents], bool)
    likely = {}
    for (i, j), proposal in sorted(likely_pairs(anchors, thumbnails, held).items()):
        one, other = contents[i], contents[j]
        if apart[one] & inside[other] or apart[other] & inside[one]:
            likely[one, other] = proposal._replace(first=looks[one].path, second=looks[other].path)
    confirmed = functools.partial(confirm, read=read_three_bands)
    kinds = map_progress(confirmed, likely.values(), workers=workers, desc="Comparing", unit="pair")
    copies = defaultdict(list)
    for both, kind in zip(likely, kinds, strict=True):
        for content, other in (both, both[::-1]) if kind else ():
            for name, tile_id in holders[content]:
                for second, twin_id in holders[other]:
                    if (name, second) in pairs:
                        copies[name, second].append((kind, tile_id, twin_id))
    return copies


def _either(masks: Iterator[int]) -> int:
    """The bits that are set in any of some numbers."""
    union = 0
    for mask in masks:
        union |= mask
    return union


def compare(parts: dict[str, Part], workers: int) -> tuple[list[dict], list[dict]]:
    """What every pair of sets that must be apart shares, as findings, and a row of counts for each pair."""
    findings, rows = [], []
    near = near_copies(parts, workers)
    for held, name in pairs_apart(parts):
        shared = shared_tiles(parts[held], parts[name]) + near.get((held, name), [])
        counts = Counter(kind for kind, _, _ in shared)
        for kind in counts:
            examples = [f"{a} = {b}" if a != b else a for k, a, b in shared if k == kind]
            text = f"{held} and {name} share {kind} in {counts[kind]} cases: {some(examples)}"
            findings.append(finding(kind, [held, name], counts[kind], text))
        row = {"sets": [held, name], **{kind: counts[kind] for kind in SHARED_KINDS}}
        unknown = not_comparable(parts[held].locations(), parts[name].locations())
        rows.append({**row, "ground not comparable": unknown})
    return findings, rows
