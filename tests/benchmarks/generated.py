"""Generated tiles at the real sizes, made quickly: raw ones of small patches, others cut from one large scene."""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import link_or_copy
from common.rasters import write_image, write_mask
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP, Taxonomy
from data_prep.tile_sets.writer import describe_tile, new_tile_set
from tests.helpers import OEM_RAW, write_tif

SIDE, OEM_SIDE = 512, 1000  # pixels
SCENE = 3072
PATCH_DETAIL = 4  # pixels
PLACE = {"crs": None, "bounds": None, "gsd": None}


def scene(num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) uint8 class ids in patches of many sizes, some rare, and a (3, S, S) uint8 image of them; S is SCENE."""
    rng = np.random.default_rng(seed)
    best = np.full((SCENE, SCENE), -np.inf, np.float32)
    ids = np.zeros((SCENE, SCENE), np.uint8)
    for label in range(num_classes):
        score = np.full((SCENE, SCENE), -0.2 * label, np.float32)
        for cells, weight in ((SCENE // 160, 1.0), (SCENE // 20, 0.5)):
            noise = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
            score += weight * np.asarray(noise.resize((SCENE, SCENE), Image.Resampling.BICUBIC))
        ids[score > best] = label
        np.maximum(best, score, out=best)
    palette = rng.integers(40, 216, (num_classes, 3)).astype(np.uint8)
    image = np.moveaxis(palette[ids], -1, 0) + rng.integers(0, 40, (3, SCENE, SCENE), np.uint8)
    return ids, image


def patches(num_classes: int, side: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(side, side) uint8 class ids and a (3, side, side) uint8 image of them, ground that no other number shows."""
    rng = np.random.default_rng([seed, number])
    small = side // PATCH_DETAIL
    scores = np.stack(
        [
            np.asarray(Image.fromarray(rng.standard_normal((8, 8), np.float32)).resize((small, small)))
            - np.float32(0.1) * label
            for label in range(num_classes)
        ]
    )
    ids = np.kron(scores.argmax(axis=0).astype(np.uint8), np.ones((PATCH_DETAIL, PATCH_DETAIL), np.uint8))
    palette = np.random.default_rng(seed).integers(40, 216, (num_classes, 3)).astype(np.uint8)
    return ids, np.moveaxis(palette[ids], -1, 0) + rng.integers(0, 40, (3, side, side), np.uint8)


def cuts(count: int, side: int, seed: int):
    """Yield ``count`` slices of side x side pixels of a scene."""
    for top, left in np.random.default_rng(seed).integers(0, SCENE - side, (count, 2)):
        yield slice(top, top + side), slice(left, left + side)


def write_biodiversity_raw(root: Path, count: int, seed: int = 0) -> None:
    """Touching tiles of four float32 bands, like the real ones, under ROOT/data/biodiversity_raw."""
    folder = root / "data/biodiversity_raw"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        ids, image = patches(BIODIVERSITY.num_classes, SIDE, seed, i)
        reflectance = np.concatenate([image, image[:1]]).astype(np.float32) / 1000
        row, column = divmod(i, 48)
        left, top = 500_000 + column * SIDE * 0.5, 5_000_000 - row * SIDE * 0.5
        write_tif(folder / f"images/tile_{i:05d}.tif", reflectance, origin=(left, top), interleave="pixel")
        write_mask(folder / f"masks/tile_{i:05d}.png", ids)


def write_oem_raw(root: Path, count: int, seed: int = 1) -> None:
    """OpenEarthMap tiles in regions of fifty, under ROOT where filter_oem_rural looks for them."""
    folder = root / OEM_RAW
    for i in range(count):
        ids, image = patches(OPENEARTHMAP.num_classes, OEM_SIDE, seed, i)
        region, number = divmod(i, 50)
        here = folder / f"region{region:02d}"
        for name in ("images", "labels"):
            (here / name).mkdir(parents=True, exist_ok=True)
        left, top = 300_000 + region * 20_000 + number % 7 * OEM_SIDE, 4_000_000 - number // 7 * OEM_SIDE
        write_tif(here / f"images/region{region:02d}_{number}.tif", image, origin=(left, top), interleave="pixel")
        write_tif(here / f"labels/region{region:02d}_{number}.tif", ids[None], origin=(left, top))


def write_tile_set(
    path: Path,
    count: int,
    *,
    split: str,
    distinct: int = 64,
    taxonomy: Taxonomy = BIODIVERSITY,
    seed: int = 0,
    bands: int = 3,
) -> None:
    """A tile set of ``count`` tiles of SIDE pixels; from ``distinct`` on they are links to the files of the first.

    Each has a content hash of its own in the manifest, so that none counts as the image of another. Further ``bands``
    than three are the first ones once more.
    """
    args = argparse.Namespace(command="generated", overwrite=False, mode="link")
    ids, image = scene(taxonomy.num_classes, seed)
    image = np.concatenate([image, image[: bands - 3]])
    statistics = {"mean": [0.5] * bands, "std": [0.25] * bands}
    facts = {"bands": list(range(1, bands + 1)), "band_statistics": statistics}
    with new_tile_set(path, args, taxonomy=taxonomy, split=split, **facts) as out:
        entries, files = [], []
        for i, cut in enumerate(cuts(min(count, distinct), SIDE, seed)):
            files.append(out.claim(f"{split}_{i:05d}"))
            write_image(files[i][0], image[:, *cut])
            write_mask(files[i][1], ids[cut])
            entries.append(describe_tile(image[:, *cut], ids[cut], *files[i], PLACE, taxonomy.num_classes))
            out.record(f"{split}_{i:05d}", entries[i])
        for i in range(distinct, count):
            for source, target in zip(files[i % distinct], out.claim(f"{split}_{i:05d}"), strict=True):
                link_or_copy(source, target, "link")
            content = hashlib.sha256(f"{seed} {i}".encode()).hexdigest()
            out.record(f"{split}_{i:05d}", {**entries[i % distinct], "content_sha256": content})
