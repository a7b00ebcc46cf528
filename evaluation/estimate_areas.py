r"""Estimate the area of each class in a map, in hectares with 95 % intervals.

Counting the pixels of a map is biased, most of all for rare classes. The counts are corrected by the confusion of the
very networks that made the map, on tiles that they were not trained on (Olofsson et al. 2014, Remote Sensing of
Environment 148). evaluation.mapping.areas says how, and what the intervals allow for; evaluation.mapping.likeness, when
the map's landscape is called unlike that of the held-out tiles, and the correction then has no basis.

Needs the map's record, which evaluation.predict_map writes beside it, and what evaluation.compute_metrics wrote for
each of its networks. --split val takes the validation tiles, of all folds for a map by the networks of a study's folds;
--split test those of the final stage.

Writes beside the map, with its name in front: map_areas.txt (the table), map_areas.json (all numbers, with the digests
that they come from) and map_areas.png.

    python -m evaluation.estimate_areas
"""

import argparse
from pathlib import Path

from common.cli import Parser, run
from common.figures import png_bytes
from common.files import json_text, write_files
from common.text import warn
from evaluation.mapping.area_report import areas_figure, json_of, report_of, text_of
from evaluation.mapping.held_out import held_out
from evaluation.mapping.record import MapRecord


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_input(
        "--map", "evaluation/map/map.tif", "map with its record beside it", made_by="evaluation.predict_map"
    )
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="held-out tiles that the correction comes from"
    )
    parser.add_input(
        "--results-dir",
        None,
        "folder of the results on that split (default: those below ROOT, its folds and the roots of the checkpoints)",
        made_by="evaluation.compute_metrics",
    )
    parser.add_argument("--out-dir", type=Path, metavar="PATH", help="folder for the areas (default: beside the map)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    record = MapRecord.beside(args.map)
    if not record.mapped:
        raise record.source.unusable(f"{record.source}: none of the map's {record.pixels.sum():,} pixels has a class")
    report = report_of(record, held_out(record, args.split, args.root, args.results_dir))
    text = text_of(report, args.command)
    contents = {
        "txt": text,
        "json": json_text(json_of(report, args.command)),
        "png": png_bytes(areas_figure(report), dpi=160),
    }
    folder, stem = args.out_dir or args.map.path.parent, args.map.path.stem
    written = {folder / f"{stem}_areas.{ending}": content for ending, content in contents.items()}
    write_files(written)
    for warning in report.warnings:
        warn(warning)
    print(text)
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    run(main)
