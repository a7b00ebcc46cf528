r"""Map a raster of any size with a trained network.

Writes a GeoTIFF of class ids (0 where there is no data) with the place, the colours and the names of the classes, and a
record of what made it, beside it. The raster is read and the map written a strip at a time, so that memory grows with
the width of the raster and not with its height. Bands, scaling and pixel size are those of training, which the
checkpoint knows; a raster that differs is refused. Of several checkpoints, such as those of five folds, the
probabilities are averaged.

    python -m evaluation.predict_map --image ortho.tif --out map.tif
    python -m evaluation.predict_map --image ortho.tif --out map.tif --part 1/4
    python -m evaluation.predict_map --image ortho.tif --out map.tif --join
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

import rasterio
from tqdm import tqdm

from common.checkpoints import Checkpoint
from common.cli import Parser, non_negative_int, positive_float, positive_int, run
from common.device import resolve_device
from common.errors import UserError
from common.files import locked, write_files
from common.inference import OVERLAP, WINDOW, WindowAxis
from common.inputs import Command
from common.raw_images import add_alpha
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import table
from evaluation.mapping.networks import (
    Networks,
    alpha_of,
    bands_of,
    chosen_checkpoints,
    gsd_of,
    load_checkpoints,
    require_fit,
    scaling_of,
    warn_of_units,
)
from evaluation.mapping.parts import part_of, strips_of
from evaluation.mapping.polygons import write_polygons
from evaluation.mapping.publish import CACHE, Tally, outputs, publish
from evaluation.mapping.quicklook import quicklook
from evaluation.mapping.raster import Raster
from evaluation.mapping.resampled import Resampled
from evaluation.mapping.store import StripStore
from evaluation.mapping.strips import LAYERS, Plan, Source, StripMaker

LAYER_HELP = {
    "confidence": "the largest probability of each pixel",
    "entropy": "how undecided each pixel is: 0 sure, 1 all classes alike",
    "disagreement": "the part of the entropy that comes from checkpoints that contradict one another",
    "probabilities": "the probability of each class, one band per class",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_path("--image", "data/scene_raw/scene.tif", "raster to map, such as a GeoTIFF, or a folder of tiles")
    parser.add_path("--out", "evaluation/map/map.tif", "the map")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="networks whose probabilities are averaged (default: best.pt of stage 6, with folds that of each fold)",
    )
    for layer, text in LAYER_HELP.items():
        parser.add_argument(f"--{layer}", action="store_true", help=f"write {text}, beside the map")
    parser.add_argument("--vector", type=Path, metavar="PATH", help="write polygons of the classes (.gpkg)")
    parser.add_argument(
        "--min-area", type=positive_float, metavar="M2", help="square metres of the smallest polygon of --vector"
    )
    parser.add_argument("--flips", action="store_true", help="average over the mirrored image too: four times the work")
    parser.add_argument(
        "--bands", type=positive_int, nargs="+", metavar="BAND", help="bands of the raster (default: as in training)"
    )
    add_alpha(parser)
    parser.add_argument("--resample", action="store_true", help="map at the pixel size of the training tiles")
    parser.add_argument(
        "--as-it-is", action="store_true", help="map a raster of another type or pixel size than the training tiles"
    )
    parser.add_argument("--window", type=positive_int, default=WINDOW, help="side in pixels of what a network sees")
    parser.add_argument(
        "--overlap", type=non_negative_int, default=OVERLAP, help="pixels that neighbouring windows share at least"
    )
    parser.add_argument("--batch", type=positive_int, default=4, help="windows at once on a GPU; changes no result")
    parser.add_argument(
        "--part", metavar="I/N", help="make only this part of the map (default: as a SLURM array or torchrun says)"
    )
    parser.add_argument("--join", action="store_true", help="write the map from its parts, all of which are made")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the windows, the memory and about how long it takes, and stop"
    )
    parser.add_argument("--resume", action="store_true", help="continue an earlier run that stopped")
    parser.add_seed()
    parser.add_device()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.overlap >= args.window:
        parser.error(f"--overlap {args.overlap} must be smaller than --window {args.window}")
    if args.min_area and not args.vector:
        parser.error("--min-area needs --vector")
    return args


def require_outputs(args: argparse.Namespace, going_on: bool) -> None:
    """Refuse outputs that are there, unless they may be replaced or the run that wrote them continues.

    Raises UserError, also if the map has another suffix than a GeoTIFF.
    """
    if args.out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out {args.out}: expected a GeoTIFF, with the suffix .tif.")
    there = [path for path in (*outputs(args.out), *([args.vector] if args.vector else [])) if path.exists()]
    if there and not (args.overwrite or args.dry_run or going_on):
        raise UserError(f"{there[0]} exists. Replace it with --overwrite, or choose another --out or --vector.")


def require_not_input(args: argparse.Namespace, raster: Raster) -> None:
    """Refuse to write over a file of the raster."""
    inputs = {piece.path.resolve() for piece in raster.pieces}
    for path in (*outputs(args.out), *([args.vector] if args.vector else [])):
        if path.resolve() in inputs:
            raise UserError(f"{path} is a file of --image {args.image}, and would be replaced. Choose another --out.")


def open_networks(args: argparse.Namespace, raster: Raster, source: Source, checkpoints: list[Checkpoint]) -> Networks:
    """The networks for a raster that fits each of them; ``source`` is what they see of it."""
    size = source.pixel_size
    scalings = []
    for checkpoint in checkpoints:
        require_fit(raster, checkpoint, args, size[0] if size else None)
        scalings.append(scaling_of(checkpoint, raster))
        warn_of_units(raster, scalings[-1])
    if args.min_area and size is None:
        raise UserError(f"--min-area: the pixel size of --image {args.image} is not known. Leave --min-area out.")
    return Networks.build(checkpoints, scalings, resolve_device(args.device), args.flips)


def describe(args: argparse.Namespace, checkpoints: list[Checkpoint], networks: Networks, source: Source) -> dict:
    """What the bytes of a map depend on but its raster, as its record keeps it."""
    keys = ("stage", "seed", "step")
    return {
        "map": args.out.name,
        "image": str(args.image),
        "checkpoints": [
            {"path": str(one.path), "digest": one.digest, **{key: one.metadata[key] for key in keys}}
            for one in checkpoints
        ],
        "taxonomy": networks.taxonomy.to_json(),
        "height": source.height,
        "width": source.width,
        "gsd": source.pixel_size[0] if source.pixel_size else None,
        "bands": list(networks.scalings[0].reading.bands),
        "alpha": networks.scalings[0].reading.alpha,
        "ranges": [networks.scalings[n].ranges for n in networks.of_scaling],
        **{key: getattr(args, key) for key in ("window", "overlap", "flips")},
    }


def tell_plan(plan: Plan, networks: Networks, maker: StripMaker, source: Source) -> None:
    """Print the windows, the memory that they take and about how long, as --dry-run does."""
    side = plan.rows.side, plan.columns.side
    scalings = len(networks.scalings)
    raw = max(1.0, source.raw_pixels / (source.height * source.width))  # that make one pixel, if it is resampled
    of_images = 2 + 2 * scalings * len(networks.scalings[0].reading.bands)
    memory = 4 * networks.taxonomy.num_classes * plan.overlap + side[0] * of_images * (1 + (raw > 1) * raw)
    memory *= plan.columns.length
    minutes = maker.seconds_a_window() * plan.windows / 60
    print(f"{plan.windows:,} windows of {side[1]} x {side[0]} pixels, in {plan.strips} strips")
    print(f"memory in addition to that of the networks: about {memory / 1e6:,.0f} MB")
    print(f"about {minutes:,.1f} minutes on {networks.device.type} if there are data everywhere")


def make_strips(store: StripStore, maker: StripMaker, plan: Plan, wanted: range) -> None:
    """Make the strips that are not there yet."""
    missing = store.missing(wanted)
    across = len(plan.columns.starts)
    total = across * len(wanted)
    with tqdm(total=total, initial=total - across * len(missing), desc="Mapping", unit="window") as bar:
        while missing:
            first, last = missing[0], next((n for n in range(missing[0], wanted.stop) if n not in missing), wanted.stop)
            for strip in maker.strips(first, last, bar.update):
                store.write(strip)
            missing = store.missing(wanted)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    command = Command.read(args.command)
    part = None if args.join else part_of(args.part)
    if part and args.overwrite:
        raise UserError("--overwrite with parts would remove those of others. Remove the map and its strips yourself.")
    unfinished = StripStore(args.out, {}, command)
    require_outputs(args, going_on=unfinished.exists and (args.resume or args.join or part is not None))
    checkpoints = load_checkpoints(chosen_checkpoints(args))
    bands, gsd = bands_of(checkpoints), gsd_of(checkpoints)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
        alpha = alpha_of(checkpoints) if args.alpha == "auto" else args.alpha
        trained = checkpoints[0].path if bands and not args.bands else None
        raster = stack.enter_context(Raster(args.image, args.bands or bands or [1, 2, 3], alpha, trained))
        require_not_input(args, raster)
        source = Resampled(raster, gsd) if args.resample and gsd and raster.pixel_size else raster
        networks = open_networks(args, raster, source, checkpoints)
        rows, columns = (WindowAxis(length, args.window, args.overlap) for length in (source.height, source.width))
        layers = tuple(layer for layer in LAYERS if getattr(args, layer))
        plan = Plan(rows, columns, layers, args.batch if networks.device.type == "cuda" else 1)
        maker = StripMaker(source, networks, plan)
        print(f"{args.image}: {raster.describe()}")
        if source is not raster:
            print(f"resampled to {gsd:g} m: {source.width:,} x {source.height:,} pixels")
        if args.dry_run:
            tell_plan(plan, networks, maker, source)
            return
        about = describe(args, checkpoints, networks, source)
        files = raster.identity()
        store = StripStore(args.out, {**about, "layers": ["classes", *layers], "files": files}, command)
        if args.join and not store.exists:
            raise UserError(f"{store.path} does not exist: no part was made yet. Make all parts before --join.")
        stack.enter_context(locked(store.part(part) if part else args.out))
        store.open(go_on=args.resume or args.join or part is not None, overwrite=args.overwrite)
        if not args.join:
            make_strips(store, maker, plan, strips_of(part, plan.strips))
        if raster.identity() != files:
            raise UserError(f"--image {args.image} was changed while it was mapped. Begin anew with --overwrite.")
        missing = store.missing(range(plan.strips))
        if part:
            print(f"part {part[0]} of {part[1]} is made; {len(missing)} of {plan.strips} strips are missing")
            print(f"join the parts when all are made: {command.without('--part').plus('--join')}")
            return
        if missing:
            raise UserError(f"{store.path} lacks {len(missing)} of {plan.strips} strips. Make all parts before --join.")
        counted = publish(store, plan, source.place, networks.taxonomy, {"command": args.command, **about}, args.out)
        picture = quicklook(args.out, source, networks.scalings[0], networks.taxonomy)
        write_files({args.out.with_suffix(".png"): picture})
        if args.vector:
            tell_polygons(args, networks.taxonomy)
        store.remove()
    tell_areas(args.out, networks.taxonomy, counted)


def tell_polygons(args: argparse.Namespace, taxonomy: Taxonomy) -> None:
    """Write the polygons of the finished map and say how many there are."""
    written = write_polygons(args.out, args.vector, taxonomy, args.min_area)
    print(f"{args.vector}: {written.polygons:,} polygons")
    if written.left_out:
        small = f"{written.left_out:,} patches under {args.min_area:g} square metres"
        print(f"left out: {small}, {written.hectares_left_out:,.2f} hectares together; their place is empty")


def tell_areas(out: Path, taxonomy: Taxonomy, counted: Tally) -> None:
    """Print how much of the map each class covers, as counted."""
    mapped = max(int(counted.pixels[1:].sum()), 1)
    rows = []
    for n, name in enumerate(taxonomy.classes):
        metres = counted.square_metres
        share = f"{counted.pixels[n] / mapped:.1%}" if n != IGNORE_INDEX else "-"
        rows.append([name, f"{counted.pixels[n]:,}", share, "-" if metres is None else f"{metres[n] / 1e4:,.1f}"])
    print(table(["class", "pixels", "share", "hectares"], rows))
    print(f"{out}: the map; {out.with_suffix('.json').name}: its record. Counted areas are biased: correct them with")
    print(f"  {Command.of('evaluation.estimate_areas', Path('.'), '--map', str(out))}")


if __name__ == "__main__":
    run(main)
