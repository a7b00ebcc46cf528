"""Which part of a map a process makes, if several share it."""

import os

from common.errors import UserError

Part = tuple[int, int]  # the first of four is (1, 4)
ARRAY = {"ID": 0, "MIN": 0, "MAX": 0, "STEP": 1, "COUNT": 1}  # what SLURM says of the tasks of an array


def part_of(text: str | None) -> Part | None:
    """The part that ``text`` (I/N) names; without it that of this task of a SLURM array or process of torchrun.

    None for the complete map. Raises UserError if ``text`` names no part, or the array leaves numbers out.
    """
    if text is not None:
        number, slash, count = text.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise UserError(f"--part {text}: expected I/N, such as 1/4 for the first of four parts.")
        return (int(number), int(count)) if int(count) > 1 else None
    array = {key: int(os.environ.get(f"SLURM_ARRAY_TASK_{key}", default)) for key, default in ARRAY.items()}
    if array["COUNT"] > 1:
        steps = range(array["MIN"], array["MAX"] + 1, array["STEP"])
        if len(steps) != array["COUNT"] or array["ID"] not in steps:
            raise UserError(
                f"the tasks of this SLURM array ({array['COUNT']} from {array['MIN']} to {array['MAX']}) leave numbers "
                "out, so that they cannot be told from parts of a map. Give --part I/N."
            )
        return steps.index(array["ID"]) + 1, array["COUNT"]
    world = int(os.environ.get("WORLD_SIZE", 1))
    return (int(os.environ["RANK"]) + 1, world) if "RANK" in os.environ and world > 1 else None


def strips_of(part: Part | None, strips: int) -> range:
    """The numbers of the strips of a part, all of them without one.

    Each part but the first also sees the row of windows above its own, so that it gets one strip less.
    """
    number, count = part or (1, 1)
    rows = strips + count - 1
    ends = [0, *(rows * n // count - (n - 1) for n in range(1, count + 1))]
    return range(ends[number - 1], ends[number])
