"""A taxonomy.json that cannot be read, contradicts itself, or is not that of the tiles."""

import json
from collections.abc import Callable
from pathlib import Path

from common.taxonomy import BIODIVERSITY
from tests.faults.bad_input import files
from tests.faults.bad_input.shared import ANALYZE, SPLITTING, Case, at, handled, refusals
from tests.helpers import THREE_CLASSES, write_taxonomy


def edited(change: Callable[[dict], object]) -> files.Spoil:
    """Writes the built-in taxonomy as taxonomy.json, but for ``change``."""

    def spoil(path: Path) -> None:
        content = json.loads(json.dumps(BIODIVERSITY.to_json()))
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def rows(**rows_by_class) -> files.Spoil:
    return edited(lambda content: content["from_openearthmap"].update(rows_by_class))


def row_of_tree(**shares) -> files.Spoil:
    return edited(lambda content: content["from_openearthmap"]["Tree"].update(shares))


def rename_class(name: str) -> files.Spoil:
    return edited(lambda content: content["classes"].__setitem__(2, name))


def unused_class(content: dict) -> None:
    content["classes"].append("Wetland")
    content["colors"].append("#00ffff")


CONTRADICTORY = [
    ("without a row", edited(lambda content: content["from_openearthmap"].pop("Tree")), "lacks rows for ['Tree']"),
    ("with a row too many", rows(Sea={"Forest": 1}), "['Sea']"),
    ("with a class twice", rename_class("Forest"), "class Forest is listed more"),
    ("whose row does not sum to one", row_of_tree(Cropland=0.5), "sums to 1.5"),
    ("with NaN", row_of_tree(Forest=float("nan")), "row of Tree"),
    ("with a negative share", row_of_tree(Forest=2, Cropland=-1), "0 or more"),
    ("with a text as share", row_of_tree(Forest="1"), "row of Tree"),
    ("with a row of lists", rows(Tree=["Forest"]), "row of Tree"),
    ("with two classes", edited(lambda content: content.update(classes=["Void", "All"])), "'classes' has 2 names"),
    ("with a colour too few", edited(lambda content: content["colors"].pop()), "'colors' must list 6"),
    ("with a line break in a class", rename_class("a\nb"), "a\\nb"),
]
UNREADABLE = [
    ("that is cut off", files.rewrite(b'{"classes": ['), "taxonomy.json: not valid JSON"),
    ("that is no text", files.rewrite(b"\xff\xfe\0"), "taxonomy.json: not valid JSON"),
    ("that nests without end", files.rewrite(b"[" * 100_000), "taxonomy.json: not valid JSON"),
    ("that is a folder", files.empty_folder, "taxonomy.json cannot be read"),
    ("that is a link to nowhere", files.link("gone"), "taxonomy.json cannot be read"),
]


def refused(table: list[tuple], *also: str) -> list[Case]:
    named = [(f"taxonomy.json {name}", *row) for name, *row in table]
    return refusals("raw", "taxonomy.json", SPLITTING, named, *also)


CASES = [
    *refused(CONTRADICTORY, "taxonomy.json", "REPRODUCE_DATA.md"),
    *refused(UNREADABLE, "remove it"),
    Case(
        "another taxonomy.json than the sets were made with",
        "data",
        lambda root: write_taxonomy(root, THREE_CLASSES),
        ANALYZE,
        ("biodiversity_split/train was written for the classes", "Two taxonomies", "--overwrite"),
    ),
    handled(
        "a class missing from train",
        at("taxonomy.json", edited(unused_class)),
        "warning: Wetland does not occur in",
        "nothing can be learnt of it",
        module=ANALYZE,
        first=((SPLITTING,),),
    ),
]
