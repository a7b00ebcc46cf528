r"""Write a small generated data set in the layout of the real one, so that the whole pipeline can be tried.

Landscapes seen from the air at 0.5 m: fields, woods, hedges, rough grassland, hamlets with roads, lakes. Half of
it plays the Biodiversity tiles, half OpenEarthMap, with another season and contrast. Classes overlap in colour on
purpose; they differ in texture and context. The pixel shares follow those of the real data. One seed gives one
data set, whatever --workers is.

    python -m data_prep.make_demo_data --root demo
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import Parser, map_progress, positive_int, run
from common.errors import UserError
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP, Taxonomy
from data_prep.demo.scenes import (
    OEM_REGIONS,
    STRETCH_PERCENTILES,
    RegionTask,
    SceneTask,
    make_raster,
    make_region,
    make_scene,
    mean_plan,
    scene_plans,
    write_8bit_tiles,
)

BIODIVERSITY_RAW = "biodiversity_raw"
OEM_RAW = "openearthmap_raw"
SCENE_RAW = "scene_raw"
FOLDERS = (BIODIVERSITY_RAW, OEM_RAW, SCENE_RAW)
OEM_TREE = f"{OEM_RAW}/OpenEarthMap/OpenEarthMap_wo_xBD"
MARKER = "demo_data.json"
STAGING = ".demo_data.partial"
SMALLEST_TILE = 32
SMALLEST_SCENE = 128
LARGEST_SCENE = 8192  # pixels; a scene is made in memory
MOST = 1000  # scenes, and OpenEarthMap tiles of a region


def list_files(folder: Path) -> dict[str, int]:
    """Path relative to the folder → size in bytes, of every file below it; side files of GIS viewers are left out."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and not path.name.endswith(".aux.xml")
    }


def check_replaceable(data: Path, overwrite: bool) -> None:
    """UserError unless the raw folders are absent, or hold only what an earlier run wrote and may be replaced."""
    present = [name for name in FOLDERS if os.path.lexists(data / name)]
    if not present:
        return
    try:
        written = json.loads((data / MARKER).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        written = {}
    for name in present:
        folder = data / name
        elsewhere = "Choose another --root; --overwrite replaces generated folders only."
        if folder.is_symlink() or not folder.is_dir() or name not in written:
            raise UserError(f"{folder} exists and was not written by make_demo_data. {elsewhere}")
        foreign = [path for path, size in list_files(folder).items() if written[name].get(path) != size]
        if foreign:
            raise UserError(
                f"{folder} holds {len(foreign)} files that make_demo_data did not write "
                f"(first: {foreign[0]}). {elsewhere}"
            )
    if not overwrite:
        raise UserError(f"{data / present[0]} exists, from an earlier run. Replace it with --overwrite.")


def publish(staging: Path, data: Path) -> None:
    """Move the finished folders and their marker into place.

    At every moment the folders in place are those that the marker in place lists, so that an interrupted run can be
    repeated with --overwrite.
    """
    for name in FOLDERS:
        if (data / name).exists():
            (data / name).rename(staging / f"old_{name}")
    os.replace(staging / MARKER, data / MARKER)
    for name in FOLDERS:
        (staging / name).rename(data / name)


def labelled_shares(pixels: np.ndarray | Sequence[float], taxonomy: Taxonomy) -> dict[str, float]:
    """Class name → share of the labelled pixels; the void class → share of all pixels."""
    pixels = np.asarray(pixels, float)
    shares = {taxonomy.void: pixels[0] / pixels.sum()}
    return shares | dict(zip(taxonomy.foreground, (pixels[1:] / max(pixels[1:].sum(), 1)).tolist(), strict=True))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_seed()
    parser.add_argument("--scenes", type=positive_int, default=6, help="Biodiversity scenes, 10 km apart")
    parser.add_argument(
        "--tiles-per-side", type=positive_int, default=6, help="each scene is cut into this many tiles squared"
    )
    parser.add_argument("--tile-size", type=positive_int, default=128, help="side of a Biodiversity tile in pixels")
    parser.add_argument("--oem-tiles", type=positive_int, default=20, help="OpenEarthMap tiles in each of 5 regions")
    parser.add_argument(
        "--oem-tile-size", type=positive_int, default=192, help="side of an OpenEarthMap tile in pixels"
    )
    parser.add_argument(
        "--near-infrared",
        action="store_true",
        help="give all Biodiversity tiles a fourth band, near infrared (default: the float32 ones alone)",
    )
    parser.add_workers()
    parser.add_overwrite()
    return parser.parse_args(argv)


def check_sizes(args: argparse.Namespace) -> None:
    """Raises UserError if a size or number is out of range."""
    for flag, size in (("--tile-size", args.tile_size), ("--oem-tile-size", args.oem_tile_size)):
        if not SMALLEST_TILE <= size <= LARGEST_SCENE:
            raise UserError(f"{flag} {size}: expected {SMALLEST_TILE} to {LARGEST_SCENE} pixels")
    for flag, number in (("--scenes", args.scenes), ("--oem-tiles", args.oem_tiles)):
        if number > MOST:
            raise UserError(f"{flag} {number}: expected at most {MOST}")
    side = args.tile_size * args.tiles_per_side
    if not SMALLEST_SCENE <= side <= LARGEST_SCENE:
        raise UserError(
            f"--tiles-per-side {args.tiles_per_side} with --tile-size {args.tile_size} makes scenes of {side} pixels; "
            f"expected {SMALLEST_SCENE} to {LARGEST_SCENE}"
        )


def generate(args: argparse.Namespace, staging: Path) -> dict:
    """Write both raw folders into ``staging`` and return what MARKER says about them."""
    plans = scene_plans(args.seed, args.scenes)
    bands = 4 if args.near_infrared else 3
    *scenes, to_map = [
        SceneTask(number, args.seed, plan, args.tiles_per_side, args.tile_size, staging / folder, bands)
        for number, (plan, folder) in enumerate(
            [*((plan, BIODIVERSITY_RAW) for plan in plans), (mean_plan(plans), SCENE_RAW)]
        )
    ]
    made = list(map_progress(make_scene, scenes, workers=args.workers, desc="Biodiversity scenes", unit="scene"))
    low, high = np.percentile(np.concatenate([sample for sample, _ in made], axis=1), STRETCH_PERCENTILES, axis=1)
    jobs = [(scene, low, high) for scene in scenes]
    in_8_bit = sum(map_progress(write_8bit_tiles, jobs, workers=args.workers, desc="8-bit tiles", unit="scene"))
    mapped = make_raster(to_map)
    regions = [
        RegionTask(number, args.seed, args.oem_tiles, args.oem_tile_size, staging / OEM_TREE)
        for number in range(len(OEM_REGIONS))
    ]
    oem = list(map_progress(make_region, regions, workers=args.workers, desc="OpenEarthMap regions", unit="region"))

    tiles = args.scenes * args.tiles_per_side**2
    files = {name: list_files(staging / name) for name in FOLDERS}
    stems = {kind: {Path(path).stem for path in files[OEM_RAW] if f"/{kind}/" in path} for kind in ("images", "labels")}
    flags = ("seed", "scenes", "tiles_per_side", "tile_size", "oem_tiles", "oem_tile_size", "near_infrared")
    return {
        "command": args.command,
        "flags": {flag: getattr(args, flag) for flag in flags},
        "biodiversity": {
            "tiles": tiles,
            "float32_tiles": tiles - in_8_bit,
            "uint8_tiles": in_8_bit,
            "bands_of_uint8_tiles": bands,
            "stretch": {"low": low.tolist(), "high": high.tolist()},
            "shares": labelled_shares(np.sum([pixels for _, pixels in made], axis=0), BIODIVERSITY),
        },
        "scene": {"shares": labelled_shares(mapped, BIODIVERSITY)},
        "openearthmap": {
            "images": len(stems["images"]),
            "labels": len(stems["labels"]),
            "pairs": len(stems["images"] & stems["labels"]),
            "shares": labelled_shares(np.sum([region["pixels"] for region in oem], axis=0), OPENEARTHMAP),
            "regions": {
                name: {
                    "shares": labelled_shares(region["pixels"], OPENEARTHMAP),
                    "mostly_built_up_labels": sum(share > 0.5 for share in region["built_up"]),
                }
                for name, region in zip(OEM_REGIONS, oem, strict=True)
            },
        },
        "files": files,
    }


def _in_words(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def summary(data: Path, content: dict) -> list[str]:
    """The lines that say in numbers what was written; ``content`` is what MARKER holds."""
    ours, theirs = content["biodiversity"], content["openearthmap"]
    bands = "four" if ours["bands_of_uint8_tiles"] == 4 else "three"
    lines = [
        f"{data / BIODIVERSITY_RAW}: {ours['tiles']} tiles of {content['flags']['tile_size']} px in "
        f"{content['flags']['scenes']} scenes, {ours['float32_tiles']} of them float32 with four bands, "
        f"the others 8-bit with {bands}",
        f"  {_in_words(ours['shares'])}",
        f"{data / OEM_TREE}: {theirs['images']} images and {theirs['labels']} labels of "
        f"{content['flags']['oem_tile_size']} px, {theirs['pairs']} pairs, in {len(theirs['regions'])} regions",
        f"  {_in_words(theirs['shares'])}",
    ]
    urban = [f"{n} {r['mostly_built_up_labels']}" for n, r in theirs["regions"].items() if r["mostly_built_up_labels"]]
    lines.append(f"  labels over 50 % built up: {', '.join(urban) or 'none'}")
    lines.append(f"{data / SCENE_RAW}: scene.tif, which is in no tile, to be mapped; scene_classes.tif, its classes")
    lines.append(f"  {_in_words(content['scene']['shares'])}")
    void = f"{BIODIVERSITY.void} and {OPENEARTHMAP.void}"
    lines.append(f"Shares are of the labelled pixels; {void} of all pixels. Details: {data / MARKER}")
    return lines


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_sizes(args)
    data = args.root / "data"
    check_replaceable(data, args.overwrite)
    staging = data / STAGING
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        content = generate(args, staging)
        (staging / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        publish(staging, data)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print("\n".join(summary(data, content)))


if __name__ == "__main__":
    run(main)
