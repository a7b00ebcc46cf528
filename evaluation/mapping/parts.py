"""Which part of a map a process makes, where several share it."""

import os

from common.errors import UserError

Part = tuple[int, int]  # the first of four is (1, 4)


def part_of(text: str | None) -> Part | None:
    """The part that ``text`` (I/N) names; without it that of this task of a SLURM array or process of torchrun.

    None for the whole map. Raises UserError where ``text`` names no part.
    """
    if text is not None:
        number, slash, count = text.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise UserError(f"--part {text}: expected I/N, such as 1/4 for the first of four parts.")
        return int(number), int(count)
    for task, first, of in (
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
        ("RANK", None, "WORLD_SIZE"),
    ):
        if task in os.environ and int(os.environ.get(of, 1)) > 1:
            return int(os.environ[task]) - int(os.environ[first] if first else 0) + 1, int(os.environ[of])
    return None


def strips_of(part: Part | None, strips: int) -> range:
    """The numbers of the strips of a part, all of them without one.

    Each part but the first also sees the row of windows above its own, so that it gets one strip less.
    """
    number, count = part or (1, 1)
    rows = strips + count - 1
    ends = [0, *(rows * n // count - (n - 1) for n in range(1, count + 1))]
    return range(ends[number - 1], ends[number])
