"""Masks that are likely wrong: moved against their image, a class read as another, one class only, another tile's mask.

Small networks learn from cells of a few pixels what each class looks like. Each tile is judged by networks that have
seen neither it nor its neighbours: is its mask much likelier when it is moved, or when classes change places? Source
of the idea: confident learning, Northcutt et al. 2021, arXiv:1911.00068, here for regions of tiles.
"""

import math

import numpy as np
from tqdm import tqdm

from common.cli import map_progress
from common.ground import overlapping, spatial_blocks
from common.raw_images import Ranges, Reading
from common.taxonomy import IGNORE_INDEX
from data_prep.audit.cells import SMALLEST_CELL, TileReader, cell_size, fit_networks, learn_from
from data_prep.audit.faults import Suspect, judge, most_suspicious_first, repeated_masks
from data_prep.raw.inspect import Inspection
from data_prep.tile_sets.stratify import joined

FEWEST_TILES = 20  # below this the networks see too little of each class to judge others by
FOLDS = 5
FEWEST_CELLS = 12  # across a tile that is judged
CELLS_PER_TILE, CELLS_IN_ALL = 200, 30_000


def folds_of(inspections: list[Inspection], seed: int) -> np.ndarray:
    """(N,) fold of each tile; tiles of one spatial block, and tiles that overlap, share a fold."""
    footprints = [i.footprint for i in inspections]
    names = [block or f"tile {i.tile.id}" for block, i in zip(spatial_blocks(footprints), inspections, strict=True)]
    units = joined(names, overlapping(footprints, footprints))
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    folds = np.zeros(len(order), int)
    sizes = np.bincount(units)
    filled = np.zeros(FOLDS, int)
    for unit in order:  # the largest units of a random order would be no better: each goes where there is most room
        folds[unit] = filled.argmin()
        filled[folds[unit]] += sizes[unit]
    return folds[units]


def find_suspects(
    inspections: list[Inspection],
    *,
    reading: Reading,
    ranges: dict[str, Ranges | None],
    classes: tuple[str, ...],
    workers: int,
    seed: int = 42,
) -> tuple[list[Suspect], str]:
    """Masks that are likely wrong, the most suspicious first, and what could not be judged (empty if all was).

    Reads every tile twice. Holds some cells of each tile, CELLS_IN_ALL in all, and a few tiles at a time.

    Args:
        inspections: of usable tiles, no image twice.
        reading: as ``read_raw`` takes them.
        ranges: of each tile id, as ``to_8bit`` takes them.
        classes: names by class id.
        workers: processes.
        seed: of folds and networks.
    """
    number = len(classes)
    cell = cell_size([min(i.height, i.width) for i in inspections] or [SMALLEST_CELL])
    readers = [TileReader(i, reading, ranges[i.tile.id], cell, number) for i in inspections]
    labelled = [i for i in inspections if any(i.pixels[IGNORE_INDEX + 1 :])]
    fitting = [i for i in labelled if min(i.height, i.width) >= FEWEST_CELLS * cell and i.invalid_share < 0.5]
    enough = len(fitting) >= FEWEST_TILES
    count = min(CELLS_PER_TILE, math.ceil(CELLS_IN_ALL / len(fitting))) if enough else 0
    used = {i.tile.id for i in fitting}
    items = [(reader, count * (reader.inspection.tile.id in used)) for reader in readers]
    cells = list(map_progress(learn_from, items, workers=workers, desc="Sampling tiles"))
    masks = {i.tile.id: i.tile.mask for i in inspections}
    keys = {tile_id: c.key for tile_id, c in zip(masks, cells, strict=True) if c.key is not None}
    if not enough:
        reason = (
            f"{len(fitting)} labelled tiles that are large enough are too few to learn from, expected {FEWEST_TILES}; "
            "only masks that repeat another tile's were looked for"
        )
        return most_suspicious_first(repeated_masks(keys, {}, masks)), reason
    readers = [reader for reader in readers if reader.inspection.tile.id in used]
    cells = [c for c, tile_id in zip(cells, masks, strict=True) if tile_id in used]
    folds = folds_of(fitting, seed)
    features = np.concatenate([c.features for c in cells])
    labels = np.concatenate([c.labels for c in cells])
    tiles = np.repeat(np.arange(len(cells)), [len(c.labels) for c in cells])
    networks = []
    for fold in tqdm(range(FOLDS), desc="Learning classes", unit="fold"):
        rows = (folds != fold)[tiles]
        networks.append(fit_networks(features[rows], labels[rows], tiles[rows], number, seed + fold))
    judged_by = [networks[fold] for fold in folds]
    items = [(reader, by, classes) for reader, by in zip(readers, judged_by, strict=True) if by.learned[1:].sum() > 1]
    judged = list(map_progress(judge, items, workers=workers, desc="Judging masks"))
    fits = {item[0].inspection.tile.id: result.fit for item, result in zip(items, judged, strict=True)}
    suspects = [s for result in judged for s in result.suspects] + repeated_masks(keys, fits, masks)
    present = np.any([i.pixels for i in fitting], axis=0)
    unsure = [classes[k] for k in range(1, number) if present[k] and not all(by.learned[k] for by in networks)]
    not_judged = []
    if len(items) < len(labelled):
        not_judged.append(
            f"{len(labelled) - len(items)} of {len(labelled)} labelled tiles, too small or mostly without an image"
        )
    if unsure:
        not_judged.append(f"{', '.join(unsure)}: in too few places to be known by its looks")
    return most_suspicious_first(suspects), "; ".join(not_judged)
