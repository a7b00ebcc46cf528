"""Class names, colours and the mapping from OpenEarthMap; the only place where a class is named.

The position of a name is its pixel value. Position 0 is void in every taxonomy.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.folds import study_root

IGNORE_INDEX = 0
FILE_NAME = "taxonomy.json"


@dataclass(frozen=True)
class Taxonomy:
    """Classes in pixel-value order, their colours, and for each OpenEarthMap class its shares among them.

    ``from_openearthmap`` is None for OpenEarthMap itself.
    """

    classes: tuple[str, ...]
    colors: tuple[str, ...]
    from_openearthmap: dict[str, dict[str, float]] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def void(self) -> str:
        return self.classes[IGNORE_INDEX]

    @property
    def foreground(self) -> tuple[str, ...]:
        """The classes that are trained, predicted and scored, in pixel-value order."""
        return self.classes[1:]

    def index(self, name: str) -> int:
        return self.classes.index(name)

    def rgb(self) -> np.ndarray:
        """(C, 3) uint8 colour of each class."""
        return np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in self.colors], np.uint8)

    def class_matrix(self) -> np.ndarray:
        """(T, C) float32; row t shares OpenEarthMap class t among the C classes here and sums to 1."""
        matrix = np.zeros((OPENEARTHMAP.num_classes, self.num_classes), np.float32)
        for source, shares in (self.from_openearthmap or {}).items():
            for name, share in shares.items():
                matrix[OPENEARTHMAP.index(source), self.index(name)] = share
        return matrix

    def hard_lookup(self) -> np.ndarray:
        """(T,) uint8; the class here that each OpenEarthMap id becomes: its row's largest entry."""
        return self.class_matrix().argmax(axis=1).astype(np.uint8)

    def to_json(self) -> dict:
        content: dict = {"classes": list(self.classes), "colors": list(self.colors)}
        if self.from_openearthmap is not None:
            content["from_openearthmap"] = self.from_openearthmap
        return content


OPENEARTHMAP = Taxonomy(
    classes=(
        "Unknown",
        "Bareland",
        "Rangeland",
        "Developed space",
        "Road",
        "Tree",
        "Water",
        "Agriculture land",
        "Building",
    ),
    colors=("#000000", "#800000", "#00ff24", "#949494", "#ffffff", "#226126", "#0045ff", "#4bb549", "#de1f07"),
)
OEM_BUILT_UP = ("Developed space", "Road", "Building")

BIODIVERSITY = Taxonomy(
    classes=("Background", "Forest", "Grassland", "Cropland", "Settlement", "Seminatural"),
    colors=("#000000", "#1b7837", "#a6d96a", "#f2b134", "#d7301f", "#7b5aa6"),
    from_openearthmap={
        "Unknown": {"Background": 1.0},
        "Bareland": {"Background": 1.0},
        "Rangeland": {"Grassland": 0.7, "Seminatural": 0.3},
        "Developed space": {"Settlement": 1.0},
        "Road": {"Settlement": 1.0},
        "Tree": {"Forest": 1.0},
        "Water": {"Background": 1.0},
        "Agriculture land": {"Cropland": 1.0},
        "Building": {"Settlement": 1.0},
    },
)


def _is_color(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 7
        and value[0] == "#"
        and all(c in "0123456789abcdefABCDEF" for c in value[1:])
    )


def parse_taxonomy(content: object, path: Path) -> Taxonomy:
    """Check the content of a taxonomy.json and return the Taxonomy; UserError names what is wrong in ``path``."""

    def problem(text: str) -> UserError:
        return UserError(f"{path}: {text}. REPRODUCE_DATA.md, section 'Other classes', shows a complete taxonomy.json.")

    if not isinstance(content, dict):
        raise problem("expected a JSON object with classes, colors and from_openearthmap")
    classes, colors, rows = (content.get(key) for key in ("classes", "colors", "from_openearthmap"))
    if not isinstance(classes, list) or not all(isinstance(c, str) and c for c in classes):
        raise problem("'classes' must be a list of names, void first")
    unprintable = [c for c in classes if not c.isprintable() or c != c.strip()]
    if unprintable:
        raise problem(f"class {unprintable[0]!r} holds a line break, or a space at its end")
    if not 3 <= len(classes) <= 255:
        raise problem(f"'classes' has {len(classes)} names; expected void and 2 to 254 classes")
    repeated = sorted({c for c in classes if classes.count(c) > 1})
    if repeated:
        raise problem(f"class {', '.join(repeated)} is listed more than once")
    if not isinstance(colors, list) or len(colors) != len(classes) or not all(map(_is_color, colors)):
        raise problem(f"'colors' must list {len(classes)} colours like #1b7837, one for each class")
    if not isinstance(rows, dict):
        raise problem("'from_openearthmap' must give a row for each OpenEarthMap class")
    missing = [name for name in OPENEARTHMAP.classes if name not in rows]
    unknown = [name for name in rows if name not in OPENEARTHMAP.classes]
    if missing or unknown:
        raise problem(
            f"'from_openearthmap' lacks rows for {missing} and has rows that are not OpenEarthMap classes: {unknown}"
        )
    for source, shares in rows.items():
        if not isinstance(shares, dict) or not shares:
            raise problem(f'the row of {source} must share it among the classes, like {{"{classes[1]}": 1}}')
        stray = [name for name in shares if name not in classes]
        if stray:
            raise problem(f"the row of {source} names {stray}, which are not in 'classes'")
        values = list(shares.values())
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in values):
            raise problem(f"the row of {source} has shares that are not numbers of 0 or more")
        if abs(sum(values) - 1) > 1e-6:
            raise problem(f"the row of {source} sums to {sum(values):g}, expected 1")
        if values.count(max(values)) > 1:
            raise problem(f"the row of {source} has two largest shares, so that it has no hard label")
    return Taxonomy(
        classes=tuple(classes),
        colors=tuple(c.lower() for c in colors),
        from_openearthmap={s: {n: float(v) for n, v in rows[s].items()} for s in OPENEARTHMAP.classes},
    )


def load_taxonomy(root: Path) -> Taxonomy:
    """The taxonomy of a root: its taxonomy.json if there is one, else the built-in Biodiversity classes.

    A fold has that of its study.
    """
    path = study_root(Path(root)) / FILE_NAME
    if not os.path.lexists(path):
        return BIODIVERSITY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:  # a folder, say, or a link that leads nowhere
        raise UserError(
            f"{path} cannot be read ({error.strerror}). Put a taxonomy there, or remove it to use the built-in classes."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({error}). Correct it, or remove it to use the built-in classes."
        ) from None
    return parse_taxonomy(content, path)


def taxonomy_from_json(content: object, path: Path) -> Taxonomy:
    """The taxonomy recorded in a manifest or checkpoint ``path``: what ``Taxonomy.to_json`` returned."""
    if content == OPENEARTHMAP.to_json():
        return OPENEARTHMAP
    return parse_taxonomy(content, path)
