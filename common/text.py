"""Plain text that scripts print, and numbers in it."""

import math
import sys
from collections.abc import Collection


def table(header: list[str], rows: list[list]) -> str:
    """Rows under a header, the first column to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {message}", file=sys.stderr)


def some(names: list[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def first_lines(lines: list[str], limit: int = 10, indent: str = "  ", rest: str = "more") -> str:
    """The first lines of a list below one another, and a last line that says how many there are beside them."""
    beside = [f"and {len(lines) - limit} {rest}"] if len(lines) > limit else []
    return "\n".join(indent + line for line in [*lines[:limit], *beside])


def count(things: Collection, noun: str) -> str:
    """``1 seed`` or ``3 seeds``."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def starred(name: str, minority: Collection[str] | None) -> str:
    """The name of a class, with a star if it is a minority class."""
    return f"{name} *" if name in (minority or ()) else name


def percent(share: float | None, digits: int = 1) -> str:
    """A share as ``43.1%``; - for none."""
    return "-" if share is None else f"{share:.{digits}%}"


def hundredths(share: float | None, digits: int = 1) -> str:
    """A share as ``43.1``, for a table whose heading says that it is a percentage; - for None and NaN."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def signed(difference: float) -> str:
    """A difference of two shares as ``+3.1`` points, with a true minus."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")
