"""A tile_difficulty.tsv that is damaged, or of other tiles."""

from collections.abc import Callable

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import SCORE, SMALL, Case, refusals

STAGE3 = "training.train_stage3_difficulty"
COMMAND = f"python -m {SCORE}"
AGAIN = f"Write it again: {COMMAND}"


def change_lines(change: Callable[[list[str]], list[str]]) -> files.Spoil:
    return lambda path: path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def change_last(change: Callable[[str], str]) -> files.Spoil:
    return change_lines(lambda lines: [*lines[:-1], change(lines[-1])])


def with_weight(text: str) -> files.Spoil:
    return change_last(lambda line: line.rpartition("\t")[0] + f"\t{text}\n")


def of_other_tile(line: str) -> str:
    return line.replace("tile_", "tale_")


TABLES = [
    ("without its last lines", change_lines(lambda lines: lines[:-3]), "no weight for 3 of", "another split"),
    ("cut off in a line", change_last(lambda line: line[:12]), "line"),
    ("cut off in its last number", change_last(lambda line: line[:-3]), "cut off"),
    ("of another split", change_lines(lambda lines: [lines[0], *map(of_other_tile, lines[1:])]), "no weight for"),
    ("with a tile too many", change_last(lambda line: line + of_other_tile(line)), "weights for 1 tiles"),
    ("with NaN", with_weight("nan"), "weight nan"),
    ("with an infinite weight", with_weight("inf"), "weight inf"),
    ("with a huge weight", with_weight("1e308"), "weight 1e+308"),
    ("with a negative weight", with_weight("-1"), "weight -1"),
    ("with a weight of 0", with_weight("0"), "weight 0"),
    ("with a word for a weight", with_weight("much"), "line"),
    ("with a line twice", change_last(lambda line: line * 2), "has a weight already"),
    ("with a column too few", change_last(lambda line: line.replace("\t", "", 1)), "5 values"),
    ("with a column too many", change_last(lambda line: "\t" + line), "5 values"),
    ("without its header", change_lines(lambda lines: lines[1:]), "the first line must name tile_id"),
    ("with commas", change_lines(lambda lines: [line.replace("\t", ",") for line in lines]), "the first line"),
    ("that is empty", files.rewrite(b""), "the first line must name tile_id"),
    ("with a NUL", change_last(lambda line: line + "\0\n"), "line"),
    ("with an endless field", change_last(lambda line: line + '"' + "x" * 200_000 + "\n"), "field larger"),
]
FILES = [("that is no text", files.rewrite(b"\xff\xfe\0\n"), "UTF-8", AGAIN), ("that is a folder", files.empty_folder)]


def refused(rows: list[tuple], *also: str) -> list[Case]:
    named = [(f"tile_difficulty.tsv {name}", *row) for name, *row in rows]
    path = "artifacts/seed42/tile_difficulty.tsv"
    return refusals("trained", path, STAGE3, named, "tile_difficulty.tsv", *also, flags=SMALL)


CASES = [*refused(TABLES, AGAIN, "--overwrite"), *refused(FILES, COMMAND)]
