"""What one step finds in train and others build on: class shares, difficulty, leakage. Read back and checked."""

import copy
import csv
import io

from common.files import read_json, sha256_file
from common.inputs import Input
from common.schema import is_count, is_flag, is_object, is_share, is_text, list_of, misfit, values_of
from common.taxonomy import Taxonomy
from common.tiles import TileSet

LARGEST_ALPHA = 1e6  # far beyond it one tile is all that is drawn
DIFFICULTY_COLUMNS = ("tile_id", "labelled_pixels", "loss", "difficulty", "weight")
OF_CLASS = {"pixels": is_count, "share": is_share, "tiles": is_count, "tile_presence": is_share}
# What two sets can share, as check_leakage counts it of each pair of sets.
SHARED_KINDS = ("tile id", "image file", "image content", "overlapping window", "altered copy", "ground")
LEAKAGE_FORM = {
    "passed": is_flag,
    "findings": list_of({"text": is_text}),
    "compared": list_of(
        {"sets": list_of(is_text), **dict.fromkeys(SHARED_KINDS, is_count), "ground not comparable?": is_count}
    ),
    "sets": values_of({"digest": is_text}),
    "blocks_shared_with_train?": values_of(is_count),
}


def difficulty_text(rows: list[tuple]) -> str:
    """Rows of DIFFICULTY_COLUMNS as tab-separated text under a header."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(DIFFICULTY_COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def read_difficulty(source: Input, tiles: TileSet) -> tuple[dict[str, float], dict[str, str]]:
    """The weights by tile id that ``difficulty_text`` wrote for exactly these tiles, and where they come from.

    Raises:
        UserError: the file is missing or malformed, a tile has no weight, or a weight has no tile.
    """
    if not source.path.is_file():
        raise source.missing()
    try:
        text = source.path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise source.unusable(f"{source} is no table in UTF-8 ({error})") from None
    if not lines or tuple(lines[0]) != DIFFICULTY_COLUMNS:
        raise source.unusable(f"{source}: the first line must name {', '.join(DIFFICULTY_COLUMNS)}")
    if not text.endswith("\n"):
        raise source.unusable(f"{source} is cut off: its last line has no end")
    weight_of: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            tile_id, _, _, _, last = line
            weight = float(last)
        except ValueError:
            raise source.unusable(
                f"{source}, line {number}: expected {len(DIFFICULTY_COLUMNS)} values, the last a number"
            ) from None
        if not 0 < weight <= 1 + LARGEST_ALPHA:
            raise source.unusable(
                f"{source}, line {number}: weight {weight} of {tile_id} is not above 0, or above {1 + LARGEST_ALPHA:g}"
            )
        if tile_id in weight_of:
            raise source.unusable(f"{source}, line {number}: {tile_id} has a weight already")
        weight_of[tile_id] = weight
    missing = [tile_id for tile_id in tiles.ids if tile_id not in weight_of]
    if missing:
        raise source.unusable(
            f"{source} has no weight for {len(missing)} of {len(tiles)} training tiles (first: {missing[0]}). "
            "It was written for another split"
        )
    stray = sorted(tile_id for tile_id in weight_of if tile_id not in tiles)
    if stray:
        raise source.unusable(
            f"{source} has weights for {len(stray)} tiles that {tiles.path} does not hold (first: {stray[0]})"
        )
    return weight_of, {"weights_from": "difficulty", "sha256": sha256_file(source.path)}


def read_distribution(source: Input, taxonomy: Taxonomy) -> dict:
    """The class distribution of train, as data_prep.analyze_class_distribution writes it.

    Raises:
        UserError: the file is missing, broken, of other classes, or was edited into something else.
    """
    content = read_json(source)
    problem = misfit(
        content,
        {
            "train_digest": is_text,
            "classes": dict.fromkeys(taxonomy.foreground, OF_CLASS),
            "minority_classes": lambda names: _are_classes(names, taxonomy),
            "minority_share": is_share,
            "tile_share": is_share,
            "tiles_to_replicate": is_object,
        },
    )
    if not problem:
        shares = {name: of_class["share"] for name, of_class in content["classes"].items()}
        if shares.keys() != set(taxonomy.foreground) or abs(sum(shares.values()) - 1) > 1e-6 and any(shares.values()):
            problem = f"its classes are {', '.join(shares)}, their shares sum to {sum(shares.values()):g}, expected 1"
        elif not all(shares[name] for name in content["minority_classes"]):
            problem = "a class without a pixel is no minority class"
    if problem:
        raise source.unusable(f"{source} is not a class distribution of this taxonomy: {problem}")
    return content


def _are_classes(names: object, taxonomy: Taxonomy) -> bool:
    """Whether ``names`` is a list of different foreground classes."""
    if not isinstance(names, list) or not all(map(is_text, names)):
        return False
    return set(names) <= set(taxonomy.foreground) and len(set(names)) == len(names)


def read_minority_classes(source: Input, tiles: TileSet) -> tuple[list[int], list[float]]:
    """Ids of the minority classes of train, and the share of each among its labelled pixels.

    Raises:
        UserError: as ``read_distribution``; the file is of another split than ``tiles`` were made from, or names no
            minority class.
    """
    distribution = read_distribution(source, tiles.taxonomy)
    made_from = {parent["digest"] for parent in tiles.manifest["made_from"]} | {tiles.digest}
    if distribution["train_digest"] not in made_from:
        raise source.unusable(f"{source} was written for another train split")
    names = distribution["minority_classes"]
    if not names:
        raise source.unusable(f"{source} names no minority class", "--minority-share", "0.2")
    return [tiles.taxonomy.index(name) for name in names], [distribution["classes"][name]["share"] for name in names]


def complete_run_record(record: dict) -> dict:
    """A run's record with what those of before versions 0.9 and 0.10 did not say, since it could not be chosen.

    ``record`` is the content of run.json, or a checkpoint's metadata.
    """
    record = copy.deepcopy(record)
    record["settings"] = {"label_smoothing": 0.05, "decoder_channels": None, "average": 0.0} | record["settings"]
    loss = record["recipe"].get("loss")
    if isinstance(loss, dict) and isinstance(loss.get("kd"), dict):
        loss["kd"].setdefault("max_mapped_void", 0.5)
    return record


def read_leakage(source: Input) -> dict | None:
    """What data_prep.check_leakage found, None if it was not run. Raises UserError if the file is something else."""
    if not source.path.is_file():
        return None
    report = read_json(source)
    problem = misfit(report, LEAKAGE_FORM)
    if problem:
        raise source.unusable(f"{source} is not a report of check_leakage: {problem}")
    return report
