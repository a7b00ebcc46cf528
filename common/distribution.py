"""What data_prep.analyze_class_distribution found in train, read back and checked."""

from pathlib import Path

from common.cli import UserError
from common.files import read_json
from common.forms import is_count, is_object, is_share, is_text, misfit
from common.taxonomy import Taxonomy

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
