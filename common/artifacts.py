"""What one step finds in train and others build on, read back and checked: class shares, minorities, difficulty."""

import csv
import io
from pathlib import Path

from common.croppers import MinorityCrop
from common.errors import UserError
from common.files import read_json, sha256_file
from common.samplers import WeightedTiles
from common.schema import is_count, is_object, is_share, is_text, misfit
from common.taxonomy import Taxonomy
from common.tiles import TileSet

LARGEST_ALPHA = 1e6  # far beyond it one tile is all that is drawn
DIFFICULTY_COLUMNS = ("tile_id", "labelled_pixels", "loss", "difficulty", "weight")


def difficulty_text(rows: list[tuple]) -> str:
    """Rows of DIFFICULTY_COLUMNS as tab-separated text under a header."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(DIFFICULTY_COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def read_difficulty(path: Path, tiles: TileSet, command: str) -> WeightedTiles:
    """The sampler that ``difficulty_text`` described for exactly these tiles; ``command`` writes the file.

    Raises:
        UserError: the file is missing or malformed, a tile has no weight, or a weight has no tile.
    """
    again = f"Write it again: {command} --overwrite"
    if not path.is_file():
        raise UserError(f"{path} does not exist. Write it first: {command}")
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}). {again}") from None
    if not lines or tuple(lines[0]) != DIFFICULTY_COLUMNS:
        raise UserError(f"{path}: the first line must name {', '.join(DIFFICULTY_COLUMNS)}. {again}")
    if not text.endswith("\n"):
        raise UserError(f"{path} is cut off: its last line has no end. {again}")
    weight_of = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            tile_id, *_, weight = line if len(line) == len(DIFFICULTY_COLUMNS) else ()
            weight = float(weight)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected {len(DIFFICULTY_COLUMNS)} values, the last a number. {again}"
            ) from None
        if not 0 < weight <= 1 + LARGEST_ALPHA:
            raise UserError(
                f"{path}, line {number}: weight {weight} of {tile_id} is not above 0, or above {1 + LARGEST_ALPHA:g}. "
                f"{again}"
            )
        if tile_id in weight_of:
            raise UserError(f"{path}, line {number}: {tile_id} has a weight already. {again}")
        weight_of[tile_id] = weight
    missing = [tile_id for tile_id in tiles.ids if tile_id not in weight_of]
    if missing:
        raise UserError(
            f"{path} has no weight for {len(missing)} of {len(tiles)} training tiles (first: {missing[0]}). "
            f"It was written for another split. {again}"
        )
    stray = sorted(tile_id for tile_id in weight_of if tile_id not in tiles)
    if stray:
        raise UserError(
            f"{path} has weights for {len(stray)} tiles that {tiles.path} does not hold (first: {stray[0]}). {again}"
        )
    return WeightedTiles(weight_of, weights_from="difficulty", sha256=sha256_file(path))


def minority_crop(size: int, path: Path, tiles: TileSet, command: str) -> MinorityCrop:
    """The minority crop for the classes that ``command`` (analyze_class_distribution) found in train.

    Raises:
        UserError: the file is missing, of another split, or names no minority class.
    """
    found = read_distribution(path, tiles.taxonomy, command)
    made_from = {parent["digest"] for parent in tiles.manifest["made_from"]} | {tiles.digest}
    if found["train_digest"] not in made_from:
        raise UserError(f"{path} was written for another train split. Write it again: {command}")
    names = found["minority_classes"]
    if not names:
        raise UserError(f"{path} names no minority class. Raise the threshold: {command} --minority-share 0.2")
    shares = [found["classes"][name]["share"] for name in names]
    classes = [tiles.taxonomy.index(name) for name in names]
    return MinorityCrop(size, classes, shares)


def read_minority(path: Path, taxonomy: Taxonomy, command: str) -> list[str]:
    """Names of the minority classes that ``command`` (analyze_class_distribution) found in train."""
    names = read_json(path, command)
    names = names.get("minority_classes") if isinstance(names, dict) else None
    if not is_minority(names, taxonomy):
        raise UserError(f"{path} does not give minority classes of this taxonomy. Write it again: {command}")
    return names


OF_CLASS = {"pixels": is_count, "share": is_share, "tiles": is_count, "tile_presence": is_share}


def is_minority(names, taxonomy: Taxonomy) -> bool:
    """Whether ``names`` is a list of different foreground classes."""
    if not isinstance(names, list) or not all(map(is_text, names)):
        return False
    return set(names) <= set(taxonomy.foreground) and len(set(names)) == len(names)


def read_distribution(path: Path, taxonomy: Taxonomy, command: str) -> dict:
    """The class distribution of train that ``command`` (analyze_class_distribution) writes.

    Raises:
        UserError: the file is missing, broken, of other classes, or was edited into something else.
    """
    found = read_json(path, command)
    wrong = misfit(
        found,
        {
            "train_digest": is_text,
            "classes": dict.fromkeys(taxonomy.foreground, OF_CLASS),
            "minority_classes": lambda names: is_minority(names, taxonomy),
            "minority_share": is_share,
            "tile_share": is_share,
            "tiles_to_replicate": is_object,
        },
    )
    if not wrong:
        shares = {name: known["share"] for name, known in found["classes"].items()}
        if shares.keys() != set(taxonomy.foreground) or abs(sum(shares.values()) - 1) > 1e-6 and any(shares.values()):
            wrong = f"its classes are {', '.join(shares)}, their shares sum to {sum(shares.values()):g}, expected 1"
        elif not all(shares[name] for name in found["minority_classes"]):
            wrong = "a class without a pixel is no minority class"
    if wrong:
        raise UserError(f"{path} is not a class distribution of this taxonomy: {wrong}. Write it again: {command}")
    return found
