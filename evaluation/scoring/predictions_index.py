"""The index of the pictures that evaluation.plot_predictions leaves, and reading it back."""

from common.bands import BANDS_FORM
from common.files import read_json
from common.inputs import Input
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.stages import ARM_OF
from common.taxonomy import taxonomy_from_json
from common.tiles import is_tile_id
from evaluation.scoring.results import PHOTOS, PREDICTIONS_INDEX

INDEX_FORM = {
    "taxonomy": is_object,
    "arms": list_of({"name": lambda name: is_text(name) and name in ARM_OF, "checkpoint_digest": is_text}),
    "seed": is_count,
    "split_digest": is_text,
    "minority_classes": list_of(is_text),
    **dict.fromkeys(("bands?", "shown?"), BANDS_FORM),
    "tiles": list_of(
        {
            "id": is_tile_id,  # names a folder
            "image": lambda name: name in PHOTOS,
            **dict.fromkeys(("height", "width"), lambda side: is_count(side) and side > 0),
            "block": is_text,
            "pixels": values_of(is_count),
            "scores": values_of(dict.fromkeys(("mIoU", "OA"), optional(is_number))),
        }
    ),
}


def read_index(folder: Input) -> dict | None:
    """The index in a folder, with its taxonomy as a Taxonomy; None if there is none.

    Raises:
        UserError: the index is broken, or lacks something of a tile.
    """
    source = folder / PREDICTIONS_INDEX
    if not source.path.is_file():
        return None
    index = read_json(source)
    problem = misfit(index, INDEX_FORM)
    if problem:
        raise source.unusable(f"{source} is not of this project: {problem}")
    taxonomy = taxonomy_from_json(index["taxonomy"], source.path)
    names = {arm["name"] for arm in index["arms"]}
    if not names or not all(
        names <= tile["scores"].keys() and list(tile["pixels"]) == list(taxonomy.classes) for tile in index["tiles"]
    ):
        raise source.unusable(f"{source} lacks arms, scores or pixels of a tile")
    return index | {"taxonomy": taxonomy}
