"""Panels of a report that show tiles by image, truth and the prediction of each stage."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.bands import BANDS_FORM, RGB, named
from common.files import read_json
from common.inputs import Input
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.stages import ARM_OF
from common.taxonomy import IGNORE_INDEX, Taxonomy, taxonomy_from_json
from common.text import hundredths, percent, starred
from common.tiles import is_tile_id
from evaluation.report.format import arm_name
from evaluation.report.page import Html, data_uri, el, missing, open_picture
from evaluation.scoring.results import PHOTOS, PREDICTIONS_INDEX
from evaluation.study.evidence import Evidence

LARGE_VIEW = 520  # pixels of the screen for the large view of a tile
HATCH = 500  # least side of a picture of errors, so that its hatching is as fine on small tiles
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


def read_predictions(folder: Input, evidence: Evidence) -> tuple[dict | None, list[str]]:
    """The index that evaluation.plot_predictions left, None where there is none; and what is wrong with it.

    Raises:
        UserError: the index is broken, or lacks something of a tile.
    """
    source = folder / PREDICTIONS_INDEX
    if not source.path.is_file():
        return None, []
    index = read_json(source)
    problem = misfit(index, INDEX_FORM)
    if problem:
        raise source.unusable(f"{source} is not of this project: {problem}")
    taxonomy = taxonomy_from_json(index["taxonomy"], source.path)
    digests = {arm["name"]: arm["checkpoint_digest"] for arm in index["arms"]}
    seed, split = index["seed"], index["split_digest"]
    if not digests or not all(
        digests.keys() <= tile["scores"].keys() and list(tile["pixels"]) == list(taxonomy.classes)
        for tile in index["tiles"]
    ):
        raise source.unusable(f"{source} lacks arms, scores or pixels of a tile")
    again = f"draw again: {folder.made_by}"
    if taxonomy != evidence.taxonomy or split != evidence.results[0].tiles.split_digest:
        return index, [f"the predictions shown are of other val tiles or classes than the scores; {again}"]
    stale = []
    for name, digest in digests.items():
        scored = evidence.arms[name].last.get(seed) if name in evidence.arms else None
        if scored and scored.tiles.checkpoint_digest != digest:
            stale.append(arm_name(ARM_OF[name]))
    if not stale:
        return index, []
    return index, [f"the predictions shown of {', '.join(stale)} are of other checkpoints than the scores; {again}"]


def read_ids(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids of a PNG with a palette."""
    with open_picture(path) as picture:
        return np.array(picture)


def errors_picture(preds: np.ndarray, truth: np.ndarray) -> bytes:
    """A PNG to lay over a prediction: hatched where it is wrong, pale where it is right, white where there is no truth.

    Args:
        preds, truth: (H, W) uint8 class ids.
    """
    fine = max(1, -(-HATCH // max(truth.shape)))
    state = np.where(preds == truth, 1, 2)
    state[truth == IGNORE_INDEX] = 0
    state = state.repeat(fine, axis=0).repeat(fine, axis=1)
    step = max(1, max(state.shape) // HATCH)
    rows, columns = np.ogrid[: state.shape[0], : state.shape[1]]
    phase = (rows + columns) // step % 12
    layers = np.select([state == 0, state == 1, phase < 3, phase < 5], [0, 1, 2, 3], 4).astype(np.uint8)
    picture = Image.fromarray(layers)
    picture.putpalette([255, 255, 255] * 2 + [0, 0, 0] + [255, 255, 255] * 2)
    content = io.BytesIO()
    picture.save(content, "PNG", transparency=bytes([255, 175, 255, 255, 0]))
    return content.getvalue()


def legend(taxonomy: Taxonomy, minority: list[str], *extra: Html) -> Html:
    """The names of the classes beside their colours."""
    items = []
    for label, (name, color) in enumerate(zip(taxonomy.classes, taxonomy.colors, strict=True)):
        text = f"{name} (unlabelled)" if label == IGNORE_INDEX else starred(name, minority)
        swatch = el("span", class_="swatch", style=f"background:{color}")
        items.append(el("li", swatch, text, data_color=color, data_name=name))
    return el("ul", *items, *extra, class_="legend")


def view_map(view: str, title: str, caption: str, image: Html, shape: str, over: Html | None = None) -> Html:
    """A picture of a tile that the large view can show, ``shape`` wide by high, with another to lay over it."""
    frame = el("div", image, over, class_="frame", style=f"aspect-ratio:{shape}")
    return el("figure", frame, el("figcaption", caption), class_="map", data_view=view, data_title=title)


def tile_panel(number: int, tile: dict, index: dict, folder: Input, start: str) -> Html:
    """A tile: image and truth, one large view, and the choice of what it shows."""
    pictures, name = folder.path / tile["id"], f"tile-{number}"
    truth = read_ids(pictures / "truth.png")
    shape = f"{truth.shape[1]} / {truth.shape[0]}"
    kind = "jpeg" if tile["image"].endswith("jpg") else "png"
    photo = el("img", src=data_uri((pictures / tile["image"]).read_bytes(), kind), alt=f"Image of tile {tile['id']}")
    truth_uri = data_uri((pictures / "truth.png").read_bytes(), "png")
    mask = el("img", src=truth_uri, alt=f"True classes of tile {tile['id']}", class_="labels")
    reference = view_map("image", "Image", "Image", photo, shape) + view_map("truth", "Truth", "Truth", mask, shape)

    maps, options = [], [("image", "Image", {}), ("truth", "Truth", {})]
    for entry in index["arms"]:
        arm, scores = ARM_OF[entry["name"]], tile["scores"][entry["name"]]
        content = (pictures / f"{arm.name}.png").read_bytes()
        preds = read_ids(pictures / f"{arm.name}.png")
        caption = "nothing labelled"
        if None not in (scores["OA"], scores["mIoU"]):
            caption = f"mIoU {hundredths(scores['mIoU'], 0)}, OA {hundredths(scores['OA'], 0)}"
        about = f"{arm_name(arm)} on tile {tile['id']}"
        labels = el("img", src=data_uri(content, "png"), alt=f"Prediction of {about}: {caption}", class_="labels")
        hatching = data_uri(errors_picture(preds, truth), "png")
        errors = el("img", src=hatching, alt=f"Hatched where {about} is wrong", class_="errors")
        maps.append(view_map(arm.name, arm_name(arm), f"{arm_name(arm)}: {caption}", labels, shape, errors))
        options.append((arm.name, arm_name(arm), scores))

    rows = [el("div", el("span"), el("span", "mIoU"), el("span", "OA"), class_="head", aria_hidden="true")]
    for view, title, scores in options:
        radio = el("input", type="radio", name=name, value=view, checked=view == start, autocomplete="off")
        cells = [hundredths(scores[k], 0) if scores.get(k) is not None else "" for k in ("mIoU", "OA")]
        rows.append(el("label", el("span", radio, title), *(el("span", cell) for cell in cells)))
    choice = el(
        "fieldset",
        el("legend", "Large view"),
        el("div", *rows, class_="options"),
        el("p", "Scores on this tile alone, %.", class_="note"),
        class_="choice",
        aria_label=f"Large view of tile {tile['id']}",
    )
    labelled = 1 - tile["pixels"][index["taxonomy"]["classes"][IGNORE_INDEX]] / (tile["height"] * tile["width"])
    about = f"{tile['width']} × {tile['height']} pixels, {percent(labelled, 0)} labelled, block {tile['block']}"
    width = round(LARGE_VIEW * min(1, truth.shape[1] / truth.shape[0]))
    readout = el("p", "Point at a map to read its classes.", class_="readout")
    stack = el("div", *maps, class_="predictions", data_void=index["taxonomy"]["classes"][IGNORE_INDEX])
    return el(
        "article",
        el("h3", tile["id"], " ", el("span", about, class_="note")),
        el(
            "div",
            el("div", reference, class_="reference"),
            el("div", stack, readout, class_="large"),
            choice,
            class_="views",
            style=f"--large:{width}px",
        ),
        class_="tile",
        id=name,
    )


def predictions(evidence: Evidence, index: dict | None, folder: Input) -> list[Html]:
    """A panel a tile, whose large view switches between image, truth and the stages."""
    if index is None:
        return [missing("No pictures of predictions are there", folder.made_by)]
    taxonomy = taxonomy_from_json(index["taxonomy"], folder.path / PREDICTIONS_INDEX)
    drawn = [arm["name"] for arm in index["arms"]]
    ranked = [scores.arm.name for scores in evidence.stages if scores.arm.name in drawn]
    start = ranked[0] if ranked else drawn[0]
    views = [("image", "Image", "Image"), ("truth", "Truth", "Truth")]
    views += [(name, arm_name(ARM_OF[name]), ARM_OF[name].short) for name in drawn]
    everywhere = []
    for view, title, label in views:
        pick = {"type": "radio", "name": "all-tiles", "value": view, "checked": view == start, "autocomplete": "off"}
        everywhere.append(el("label", el("input", **pick, aria_label=title), label, title=title))
    switch = el("label", el("input", type="checkbox", id="hatch", autocomplete="off"), "Hatch errors", class_="switch")
    hatched = el("li", el("span", class_="swatch"), "wrong (pale: right, white: not scored)", class_="hatched")
    controls = el(
        "div",
        el("div", el("fieldset", el("legend", "All tiles:"), *everywhere, class_="all"), switch, class_="row pick"),
        el("div", legend(taxonomy, evidence.minority, hatched), class_="row"),
        class_="controls",
    )
    minority = " and ".join(index["minority_classes"])
    about = (
        f"{len(index['tiles'])} val tiles with most pixels of {minority}, from as many blocks as there are; last.pt of "
        f"seed {index['seed']}. They are chosen to show the minority classes, not to stand for the split. Choose what "
        "the large view shows, for one tile or for all; resting the pointer on a name, on the image or on the truth "
        "shows it for as long."
    )
    if len(index.get("bands", RGB)) != len(RGB) or index.get("shown") != index.get("bands"):
        about += f" The images show the bands {named(index['shown'])} of {named(index['bands'])}."
    panels = [tile_panel(number, tile, index, folder, start) for number, tile in enumerate(index["tiles"], 1)]
    return [el("p", about), controls, *panels]
