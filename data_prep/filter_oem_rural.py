r"""Keep the rural tiles of OpenEarthMap: those of which at most half is built up.

Labels stay in OpenEarthMap's own classes. The public release has labels whose image belongs to xBD, and images whose
label is withheld; both are counted and passed over, and so is a region without a labels or an images folder.

    python -m data_prep.filter_oem_rural --max-built 0.5
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import Parser, fraction, map_progress, positive_float, run
from common.errors import UserError
from common.files import check_out_dir
from common.ground import spatial_blocks
from common.rasters import write_mask
from common.raw_images import RawImage, Reading, add_alpha, chosen_reading, read_raw, write_8bit
from common.taxonomy import IGNORE_INDEX, OEM_BUILT_UP, OPENEARTHMAP
from common.text import first_lines, table, warn
from data_prep.raw.collection import lost_labels
from data_prep.raw.files import TIFF_SUFFIXES, files_by_stem, link_problem, name_problem, printable
from data_prep.raw.inspect import ids_problem, location_problem
from data_prep.raw.masks import MaskReading, add_void, read_raw_mask
from data_prep.raw.places import place_of, place_problem
from data_prep.tile_sets.writer import add_mode, describe_tile, new_tile_set

RGB = [1, 2, 3]


@dataclass(frozen=True)
class Pair:
    """An image and its label, with the region they come from."""

    id: str
    region: str
    image: Path
    label: Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_path(
        "--in-dir",
        "data/openearthmap_raw/OpenEarthMap/OpenEarthMap_wo_xBD",
        "unpacked OpenEarthMap: a folder a region, with images and labels in it",
        shared=True,
    )
    parser.add_path("--out-dir", "data/openearthmap_filtered", "tile set to write", shared=True)
    parser.add_argument(
        "--max-built",
        type=fraction,
        default=0.5,
        help=f"largest share of {', '.join(OEM_BUILT_UP)} among a tile's labelled pixels",
    )
    parser.add_argument(
        "--block-size", type=positive_float, metavar="METRES", help="side of a spatial block (default: two tile sides)"
    )
    add_alpha(parser)
    add_void(parser)
    add_mode(parser)
    parser.add_workers()
    parser.add_overwrite()
    return parser.parse_args(argv)


def built_share(label: np.ndarray) -> float:
    """Share of built-up classes among the labelled pixels of a (H, W) uint8 label; 0 if none is labelled."""
    built = sum(np.count_nonzero(label == OPENEARTHMAP.index(name)) for name in OEM_BUILT_UP)
    return built / max(np.count_nonzero(label), 1)


def find_regions(in_dir: Path) -> list[Path]:
    """The region folders; raises UserError if there are none, or one has neither images nor labels."""
    expected = f"Expected {in_dir}/<region>/images/*.tif and labels/*.tif; see REPRODUCE_DATA.md, or give --in-dir."
    if not in_dir.is_dir():
        raise UserError(f"{in_dir} does not exist. {expected}")
    paths = sorted(p for p in in_dir.iterdir() if not p.name.startswith((".", "_")))
    problem = next(filter(None, map(link_problem, paths)), None)
    if problem:
        raise UserError(f"{problem}. {expected}")
    regions = [p for p in paths if p.is_dir()]
    if not regions:
        raise UserError(f"{in_dir} holds no region folder. {expected}")
    for region in regions:
        if printable(region.name) != region.name:
            raise UserError(f"{printable(str(region))}: its name holds a tab or another control character. Rename it.")
        if not (region / "images").is_dir() and not (region / "labels").is_dir():
            raise UserError(f"{region} has neither an images nor a labels folder. {expected}")
    return regions


def find_pairs(region: Path) -> tuple[list[Pair], int, int]:
    """The pairs of a region, the number of labels without image, and of images without label.

    Raises:
        UserError: a name, or a link that leads nowhere, or several files of one stem.
    """
    by_stem = []
    for name in ("images", "labels"):
        folder = region / name
        if link_problem(folder):
            raise UserError(f"{link_problem(folder)}.")
        files, others = files_by_stem(folder, TIFF_SUFFIXES) if folder.is_dir() else ({}, [])
        for problem in filter(None, (name_problem(p) for p in others if p.suffix.lower() in TIFF_SUFFIXES)):
            raise UserError(f"{problem}.")
        for stem, paths in files.items():
            if len(paths) > 1:
                raise UserError(f"{', '.join(map(str, paths))}: several files are called {stem}, expected one.")
        by_stem.append(files)
    images, labels = by_stem
    pairs = [
        Pair(
            stem if stem.startswith(f"{region.name}_") else f"{region.name}_{stem}",
            region.name,
            images[stem][0],
            labels[stem][0],
        )
        for stem in sorted(images.keys() & labels.keys())
    ]
    return pairs, len(labels.keys() - images.keys()), len(images.keys() - labels.keys())


def read_label(path: Path, void: Sequence[int]) -> np.ndarray:
    """(H, W) uint8 ids of an OpenEarthMap label, in which its nodata and ``void`` are Unknown.

    Raises:
        UserError: it cannot be read, or an id is no OpenEarthMap class.
    """
    ids = read_raw_mask(path, MaskReading(tuple(void))).ids
    problem = ids_problem(ids, path, OPENEARTHMAP)
    if problem:
        raise UserError(problem)
    return ids.astype(np.uint8, copy=False)


def read_pair(pair: Pair, reading: Reading, void: Sequence[int]) -> tuple[RawImage, np.ndarray]:
    """The image and the (H, W) uint8 label of a pair.

    Raises:
        UserError: a file cannot be read, the two do not fit, or an id is no OpenEarthMap class.
    """
    for path in (pair.image, pair.label):
        if link_problem(path):
            raise UserError(link_problem(path))
    label = read_label(pair.label, void)
    image = read_raw(pair.image, reading)
    problem = location_problem(image.location, pair.image)
    if problem:
        raise UserError(problem)
    if image.needs_stretch:
        raise UserError(f"{pair.image}: holds {image.pixels.dtype}, expected uint8.")
    if image.valid.shape != label.shape:
        raise UserError(
            f"{pair.label}: is {label.shape[1]} x {label.shape[0]} pixels, its image "
            f"{image.valid.shape[1]} x {image.valid.shape[0]}"
        )
    of_label = place_of(pair.label)
    if image.location["bounds"] and image.transform is not None and of_label is not None:
        beside = place_problem((image.crs, image.transform), of_label, label.shape)
        if beside:
            raise UserError(f"{pair.label}: {beside}. Restore the pair from its source")
    return image, label


class Outcome(NamedTuple):
    """What came of a pair: its built-up share, where it lies, and its manifest entry or what is wrong with it.

    footprint: what ``georeference`` returns, with height and width. entry: None if the pair is dropped.
    """

    share: float = 0.0
    footprint: dict = {}
    entry: dict | None = None
    problem: str | None = None


def take(
    item: tuple[Pair, Path, Path], *, reading: Reading, void: Sequence[int], max_built: float, mode: str
) -> Outcome:
    """Read a pair, and write it as a tile if at most ``max_built`` of it is built up.

    Labels are Unknown where the image has no data.
    """
    pair, image_path, mask_path = item
    try:
        raw, label = read_pair(pair, reading, void)
    except UserError as error:
        return Outcome(problem=str(error))
    lost = int(np.count_nonzero(label[~raw.valid]))
    if lost:
        label = np.where(raw.valid, label, np.uint8(IGNORE_INDEX))
    share = built_share(label)
    footprint = {**raw.location, "height": label.shape[0], "width": label.shape[1]}
    if share > max_built:
        return Outcome(share, footprint)
    image = write_8bit(raw, None, pair.image, image_path, mode)
    write_mask(mask_path, label)
    entry = describe_tile(image, label, image_path, mask_path, raw.location, OPENEARTHMAP.num_classes)
    of_labels = {"lost_labels": lost} if lost else {}
    return Outcome(share, footprint, {**entry, **of_labels, "region": pair.region, "source": "openearthmap"})


def require_own_ids(pairs: list[Pair]) -> None:
    """Refuse pairs that would become tiles of one id."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        other = first.setdefault(pair.id, pair)
        if other is not pair:
            raise UserError(
                f"{other.image} and {pair.image} would both become the tile {pair.id}. Rename one of them, and its "
                "label with it."
            )


def require_whole(outcomes: dict[Pair, Outcome], in_dir: Path) -> None:
    """Refuse pairs that cannot be used, the first ten of them named in one message."""
    problems = [outcome.problem for outcome in outcomes.values() if outcome.problem]
    if problems:
        raise UserError(
            f"{in_dir}: {len(problems)} tiles cannot be used:\n{first_lines(problems)}\n"
            "Unpack the archive again, or remove the image and the label of these tiles."
        )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_out_dir(args.out_dir, args.overwrite, inputs=[args.in_dir])
    regions = {region.name: find_pairs(region) for region in find_regions(args.in_dir)}
    pairs = [pair for of_region, _, _ in regions.values() for pair in of_region]
    require_own_ids(pairs)
    reading = chosen_reading(RGB, args.alpha, [pair.image for pair in pairs])
    entries = {"max_built": args.max_built, "block_size": args.block_size, "alpha": reading.alpha, "void": args.void}
    with new_tile_set(args.out_dir, args, taxonomy=OPENEARTHMAP, split="pool", inputs=[args.in_dir], **entries) as out:
        items = [(pair, *out.claim(pair.id)) for pair in pairs]
        take_one = functools.partial(take, reading=reading, void=args.void, max_built=args.max_built, mode=args.mode)
        taken = map_progress(take_one, items, workers=args.workers, desc="Filtering")
        outcomes = dict(zip(pairs, taken, strict=True))
        require_whole(outcomes, args.in_dir)
        if not any(outcome.entry for outcome in outcomes.values()):
            raise UserError(
                f"{args.in_dir}: none of {len(pairs)} tiles with image and label has at most {100 * args.max_built:g}% "
                "built-up pixels. Raise --max-built, or unpack more regions."
            )
        for region, (of_region, _, _) in regions.items():
            footprints = [outcomes[pair].footprint for pair in of_region]
            blocks = spatial_blocks(footprints, args.block_size, prefix=f"{region}/")
            for pair, block in zip(of_region, blocks, strict=True):
                if entry := outcomes[pair].entry:
                    out.record(pair.id, {**entry, "block": block})

    rows = []
    labels_only = sum(labels for _, labels, _ in regions.values())
    images_only = sum(images for _, _, images in regions.values())
    for region, (of_region, labels, images) in [*regions.items(), ("all", (pairs, labels_only, images_only))]:
        kept = sum(outcomes[pair].entry is not None for pair in of_region)
        mean = f"{np.mean([outcomes[pair].share for pair in of_region]):.1%}" if of_region else "-"
        rows.append([region, kept, len(of_region) - kept, labels, images, mean])
    print(table(["region", "kept", "dropped", "label without image", "image without label", "mean built-up"], rows))
    print(out.summary())
    lost = lost_labels(out.entries)
    if lost:
        warn(lost)


if __name__ == "__main__":
    run(main)
