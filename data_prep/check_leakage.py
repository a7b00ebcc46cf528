r"""Check that nothing of val or test is in anything that is trained on.

Every file of all tile sets under data/ is read, and what the manifests say is believed nowhere: ids, files, pixels,
ground, spatial blocks and the origin of replicas follow from the files. Windows and altered copies of held-out images
are found from their pixels. Exit status 2 if anything leaks.

    python -m data_prep.check_leakage
"""

import argparse

from common.artifacts import SHARED_KINDS
from common.cli import Parser, run
from common.errors import UserError
from common.files import write_json
from common.text import first_lines, table, warn
from data_prep.leakage.provenance import block_findings, check_files, from_steps, origins, other_dealings
from data_prep.leakage.sets import look_at_files, open_parts
from data_prep.leakage.shared import compare

NEAR_COPIES = {"overlapping window", "altered copy"}
RAW_REPEATS = (
    " Where raw tiles overlap or repeat one another, have check_biodiversity find them before the split, or name those "
    "that it misses: split_biodiversity --groups FILE."
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    split, teacher = "data/biodiversity_split", "data/openearthmap_teacher"
    combined, relabelled = "data/biodiversity_oem_combined/train", "data/openearthmap_relabelled"
    for flag, default, help, module in (
        ("--split-dir", split, "folder with train, val, test and, if made, train_rep", "split_biodiversity"),
        ("--combined-dir", combined, "pretraining set, if made", "combine_biodiversity_oem"),
        ("--filtered-dir", "data/openearthmap_filtered", "rural OpenEarthMap tiles, if made", "filter_oem_rural"),
        ("--relabelled-dir", relabelled, "the same in Biodiversity classes, if made", "relabel_oem"),
        ("--teacher-dir", teacher, "folder with the teacher's train and val, if made", "prepare_oem_teacher"),
    ):
        parser.add_input(flag, default, help, made_by=f"data_prep.{module}", shared="openearthmap" in default)
    parser.add_path("--raw-dir", "data/biodiversity_raw", "raw tiles that were split, if they are there", shared=True)
    parser.add_path("--out", "artifacts/leakage.json", "findings and counts")
    parser.add_workers()
    return parser.parse_args(argv)


def shown(row: dict[str, int], kind: str) -> str:
    """A count of a row of ``compare`` for the table; ground that cannot be compared is said so, instead of 0."""
    unknown = row["ground not comparable"] if kind == "ground" else 0
    if not unknown:
        return str(row[kind])
    return f"{row[kind]} ({unknown} pairs not comparable)" if row[kind] else f"not comparable ({unknown} pairs)"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    parts = open_parts(args)
    look_at_files(parts, args.workers)
    findings = check_files(parts) + from_steps(parts) + other_dealings(parts, args.root)
    shared, rows = compare(parts, args.workers)
    of_blocks, crossing = block_findings(parts)
    findings += shared + origins(parts, args.raw_dir, args.workers) + of_blocks
    sets = {name: part.tiles for name, part in parts.items()}
    strategy = sets["train"].manifest.get("split_strategy")
    report = {
        "passed": not findings,
        "findings": findings,
        "compared": rows,
        "split_strategy": strategy,
        "blocks_shared_with_train": crossing,
        "sets": {n: {"path": str(s.path), "digest": s.digest, "tiles": len(s)} for n, s in sets.items()},
    }
    write_json(args.out, report)
    print(table(["set", "tiles", "blocks"], [[n, len(s), len({t.block for t in s})] for n, s in sets.items()]))
    shared = [[" and ".join(row["sets"]), *(shown(row, kind) for kind in SHARED_KINDS)] for row in rows]
    print("\n" + table(["shared by", *SHARED_KINDS], shared))
    both = f"val and train {crossing['val']}, test and train {crossing['test']}"
    print(f"\nblocks on both sides: {both} ({strategy} split)")
    if findings:
        lines = first_lines([finding["text"] for finding in findings], len(findings))
        raise UserError(
            f"{len(findings)} findings under {args.split_dir} and beside it, expected none ({args.out}):\n{lines}\n"
            "Make the tile sets again from the raw tiles, from split_biodiversity on with --overwrite, in the order of "
            "REPRODUCE_DATA.md." + (RAW_REPEATS if {finding["kind"] for finding in findings} & NEAR_COPIES else "")
        )
    if any(crossing.values()):
        warn(
            f"a random split: {crossing['val']} blocks of val and {crossing['test']} of test have neighbours in train, "
            "so that scores are higher than in new areas. split_biodiversity --strategy blocks keeps them together."
        )
    print(f"no leakage found: {sum(map(len, sets.values()))} tiles in {len(sets)} sets; {args.out} written")


if __name__ == "__main__":
    run(main)
