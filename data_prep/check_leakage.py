r"""Check that nothing of val or test is in anything that is trained on.

Tile ids, file and image hashes, ground, replicas, OpenEarthMap tiles, spatial blocks and the files themselves are
compared across all tile sets under data/. Exit status 2 where anything leaks.

    python -m data_prep.check_leakage
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from common.cli import Parser, UserError, command_for, map_progress, run
from common.files import sha256_file, write_json
from common.splitting import not_comparable, overlapping
from common.taxonomy import OPENEARTHMAP, load_taxonomy
from common.text import some, table, warn
from common.tiles import TileSet, manifest_digest

SPLIT = "data_prep.split_biodiversity"
PARENTS = {
    "train_rep": ["train"],
    "OEM relabelled": ["OEM filtered"],
    "OEM teacher train": ["OEM filtered"],
    "OEM teacher val": ["OEM filtered"],
    "combined": ["train", "OEM relabelled"],
}


@dataclass(frozen=True)
class Part:
    """A tile set and its name in this report.

    role: train, val or test of Biodiversity, or openearthmap. command: makes the set.
    """

    name: str
    role: str
    tiles: TileSet
    command: str


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--split-dir", "data/biodiversity_split", "folder with train, val, test and, where made, train_rep")
    parser.add_path("--combined-dir", "data/biodiversity_oem_combined/train", "pretraining set, where made")
    parser.add_path("--filtered-dir", "data/openearthmap_filtered", "rural OpenEarthMap tiles, where made")
    parser.add_path("--relabelled-dir", "data/openearthmap_relabelled", "the same in Biodiversity classes, where made")
    parser.add_path("--teacher-dir", "data/openearthmap_teacher", "folder with the teacher's train and val, where made")
    parser.add_path("--out", "artifacts/leakage.json", "findings and counts")
    parser.add_workers()
    return parser.parse_args(argv)


def open_parts(args) -> dict[str, Part]:
    """The tile sets by name: train, val and test, and those of the others that exist."""
    taxonomy = load_taxonomy(args.root)
    places = [
        ("train", "train", args.split_dir / "train", SPLIT, taxonomy),
        ("val", "val", args.split_dir / "val", SPLIT, taxonomy),
        ("test", "test", args.split_dir / "test", SPLIT, taxonomy),
        ("train_rep", "train", args.split_dir / "train_rep", "data_prep.replicate_minority", taxonomy),
        ("combined", "train", args.combined_dir, "data_prep.combine_biodiversity_oem", taxonomy),
        ("OEM filtered", "openearthmap", args.filtered_dir, "data_prep.filter_oem_rural", OPENEARTHMAP),
        ("OEM relabelled", "openearthmap", args.relabelled_dir, "data_prep.relabel_oem", taxonomy),
        (
            "OEM teacher train",
            "openearthmap",
            args.teacher_dir / "train",
            "data_prep.prepare_oem_teacher",
            OPENEARTHMAP,
        ),
        ("OEM teacher val", "openearthmap", args.teacher_dir / "val", "data_prep.prepare_oem_teacher", OPENEARTHMAP),
    ]
    parts = {}
    for name, role, path, made_by, classes in places:
        if name in ("train", "val", "test") or path.exists():
            command = command_for(made_by, args)
            parts[name] = Part(name, role, TileSet.open(path, command).require_taxonomy(classes), command)
    return parts


def is_blank(tile) -> bool:
    """Whether an image has one colour throughout, so that its being in two splits tells nothing."""
    image = tile.read_image()
    return bool((image == image[:, :1, :1]).all())


def shared_tiles(part: Part, other: Part) -> list[tuple[str, str, str]]:
    """(kind, tile of part, tile of other) of each tile, image or ground that two sets share.

    Replicas count as their base. Ids are compared among Biodiversity sets only: OpenEarthMap has names of its own.
    """
    found = []
    if "openearthmap" not in (part.role, other.role) or part.role == other.role:
        bases = {name for tile in other.tiles for name in (tile.id, tile.base)}
        found += [("tile id", tile.id, tile.id) for tile in part.tiles if {tile.id, tile.base} & bases]
    seen = set()
    for key, kind in (("sha256", "image file"), ("content_sha256", "image content")):
        holders = defaultdict(list)
        for tile in other.tiles:
            holders[tile.entry[key]].append(tile)
        for tile in part.tiles:
            for twin in holders.get(tile.entry[key], ()):
                if (tile.id, twin.id) not in seen and not is_blank(tile):
                    seen.add((tile.id, twin.id))
                    found.append((kind, tile.id, twin.id))
    pairs = overlapping([t.entry for t in part.tiles], [t.entry for t in other.tiles])
    found += [("ground", part.tiles.tiles[i].id, other.tiles.tiles[j].id) for i, j in pairs]
    return found


def compare(parts: dict[str, Part]) -> tuple[list[dict], list[dict]]:
    """What every pair of sets that must be apart shares, as findings, and a row of counts for each pair."""
    findings, rows = [], []
    names = list(parts)
    pairs = [(held, name) for held in ("val", "test") for name in names if name not in ("val", held)]
    if "OEM teacher val" in parts and "OEM teacher train" in parts:
        pairs.append(("OEM teacher val", "OEM teacher train"))
    for held, name in pairs:
        shared = shared_tiles(parts[held], parts[name])
        counts = Counter(kind for kind, _, _ in shared)
        for kind in counts:
            examples = [f"{a} = {b}" if a != b else a for k, a, b in shared if k == kind]
            findings.append(
                {
                    "kind": kind,
                    "sets": [held, name],
                    "count": counts[kind],
                    "text": f"{held} and {name} share {kind} in {counts[kind]} cases: {some(examples)}",
                }
            )
        entries = [[tile.entry for tile in parts[n].tiles] for n in (held, name)]
        row = {"sets": [held, name], **{kind: counts[kind] for kind in KINDS}}
        rows.append({**row, "ground not comparable": not_comparable(*entries)})
    return findings, rows


KINDS = ("tile id", "image file", "image content", "ground")


def shown(row: dict, kind: str) -> str:
    """A count of the table; ground that cannot be compared is said so, instead of 0."""
    unknown = row["ground not comparable"] if kind == "ground" else 0
    if not unknown:
        return str(row[kind])
    return f"{row[kind]} ({unknown} pairs not comparable)" if row[kind] else f"not comparable ({unknown} pairs)"


def origins(parts: dict[str, Part]) -> list[dict]:
    """Findings about where tiles come from: replicas without base, OpenEarthMap in val or test, stale folders."""
    findings = []

    def add(kind, sets, names, text):
        if names:
            findings.append({"kind": kind, "sets": sets, "count": len(names), "text": f"{text}: {some(names)}"})

    def say(kind, name, text):
        findings.append({"kind": kind, "sets": [name], "count": 1, "text": text})

    train = parts["train"].tiles
    for name, parents in PARENTS.items():
        for parent in parents if name in parts else ():
            made_from = {source["digest"] for source in parts[name].tiles.manifest["made_from"]}
            if parent in parts and parts[parent].tiles.digest not in made_from:
                again = f"make it again: {parts[name].command} --overwrite"
                say("stale", name, f"{name} was made from another version of {parent}; {again}")
    relabelled, teacher = parts.get("OEM relabelled"), parts.get("OEM teacher train")
    if relabelled and teacher:
        gsd, other = (part.tiles.manifest.get("gsd") for part in (relabelled, teacher))
        if gsd != other:
            flag = f" --gsd {gsd:g}" if gsd else ""
            text = (
                f"OEM relabelled has --gsd {gsd}, OEM teacher train {other}; make the teacher's tiles again: "
                f"{teacher.command} --overwrite{flag}"
            )
            findings.append({"kind": "resolution", "sets": [relabelled.name, teacher.name], "count": 1, "text": text})
    for name in ("train", "val", "test"):
        tiles = parts[name].tiles
        if tiles.split != name:
            say("split", name, f"{tiles.path} should be '{name}', but its manifest says {tiles.split}")
        if tiles.stretch != train.stretch:
            say("stretch", name, f"{name} was scaled to 8 bit by another range than train")
        if name != "train":
            strangers = [t.id for t in tiles if t.entry.get("source") == "openearthmap" or t.entry.get("region")]
            add("OpenEarthMap tile", [name], strangers, f"{name} holds OpenEarthMap tiles")
    for name in ("train_rep", "combined"):
        if name not in parts:
            continue
        tiles = parts[name].tiles
        if tiles.split != "train":
            say("split", name, f"{tiles.path} should be 'train', but its manifest says {tiles.split}")
        own = [t for t in tiles if t.entry.get("source") != "openearthmap"]
        add(
            "base", [name], [t.id for t in own if t.base not in train], f"{name} holds tiles whose base is not in train"
        )
        changed = [
            t.id
            for t in own
            if t.base in train and any(t.entry[key] != train[t.base].entry[key] for key in ("sha256", "mask_sha256"))
        ]
        add("base", [name], changed, f"{name} holds tiles that differ from their base in train")
    return findings


def blocks(parts: dict[str, Part]) -> tuple[list[dict], dict[str, int]]:
    """Findings where a block split has a block on two sides; and the number of such blocks for val and for test."""
    held = {name: {tile.block for tile in parts[name].tiles} for name in ("train", "val", "test")}
    findings, crossing = [], {}
    for name, others in (("val", ("train",)), ("test", ("train", "val"))):
        crossing[name] = len(held[name] & held["train"])
        for other in others:
            both = sorted(held[name] & held[other])
            strategies = {parts[p].tiles.manifest.get("split_strategy") for p in (name, other)}
            if both and strategies != {"random"}:
                text = f"{name} and {other} share {len(both)} spatial blocks of a block split: {some(both)}"
                findings.append({"kind": "block", "sets": [name, other], "count": len(both), "text": text})
    return findings, crossing


def files_of(parts: dict[str, Part]) -> dict[tuple[int, int], Path]:
    """One path for each file on disk under the sets; hard links are one file."""
    found = {}
    for part in parts.values():
        for tile in part.tiles:
            for path in (tile.image_path, tile.mask_path):
                status = path.stat()
                found.setdefault((status.st_dev, status.st_ino), path)
    return found


def check_files(parts: dict[str, Part], workers: int) -> list[dict]:
    """Findings where a file, or a manifest, is not what the manifest says."""
    files = files_of(parts)
    hashes = map_progress(sha256_file, files.values(), workers=workers, desc="Hashing", unit="file")
    known = dict(zip(files, hashes, strict=True))
    findings = []
    for name, part in parts.items():
        changed = []
        for tile in part.tiles:
            for path, key in ((tile.image_path, "sha256"), (tile.mask_path, "mask_sha256")):
                status = path.stat()
                if known[status.st_dev, status.st_ino] != tile.entry[key]:
                    changed.append(f"{path.parent.name}/{path.name}")
        if changed:
            text = f"{name}: {len(changed)} files are not those of its manifest: {some(changed)}"
            findings.append({"kind": "changed file", "sets": [name], "count": len(changed), "text": text})
        if part.tiles.digest != manifest_digest(part.tiles.manifest):
            text = f"{name}: its manifest was changed after it was written"
            findings.append({"kind": "changed manifest", "sets": [name], "count": 1, "text": text})
    return findings


def main(argv=None):
    args = parse_args(argv)
    parts = open_parts(args)
    findings = check_files(parts, args.workers)
    shared, rows = compare(parts)
    block_findings, crossing = blocks(parts)
    findings += shared + origins(parts) + block_findings
    strategy = parts["train"].tiles.manifest.get("split_strategy")
    write_json(
        args.out,
        {
            "passed": not findings,
            "findings": findings,
            "compared": rows,
            "split_strategy": strategy,
            "blocks_shared_with_train": crossing,
            "sets": {
                name: {"path": str(part.tiles.path), "digest": part.tiles.digest, "tiles": len(part.tiles)}
                for name, part in parts.items()
            },
        },
    )
    print(
        table(
            ["set", "tiles", "blocks"], [[n, len(p.tiles), len({t.block for t in p.tiles})] for n, p in parts.items()]
        )
    )
    print()
    print(
        table(
            ["shared by", *KINDS],
            [[f"{row['sets'][0]} and {row['sets'][1]}", *(shown(row, kind) for kind in KINDS)] for row in rows],
        )
    )
    print(
        f"\nblocks on both sides: val and train {crossing['val']}, test and train {crossing['test']} ({strategy} split)"
    )
    if findings:
        lines = "\n".join(f"  {finding['text']}" for finding in findings)
        raise UserError(
            f"{len(findings)} findings under {args.split_dir} and beside it, expected none ({args.out}):\n{lines}\n"
            "Make the tile sets again from the raw tiles, from split_biodiversity on with --overwrite, in the order of "
            "REPRODUCE_DATA.md."
        )
    if any(crossing.values()):
        warn(
            f"a random split: {crossing['val']} blocks of val and {crossing['test']} of test have neighbours in train, "
            "so that scores are higher than on new ground. split_biodiversity --strategy blocks keeps them together."
        )
    print(
        f"no leakage found: {sum(len(p.tiles) for p in parts.values())} tiles in {len(parts)} sets; {args.out} written"
    )


if __name__ == "__main__":
    run(main)
