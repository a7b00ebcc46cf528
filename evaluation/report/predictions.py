"""Panels of a report that show tiles by image, truth and the prediction of each stage."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import command_for
from common.errors import UserError
from common.files import read_json
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.stages import ARM_OF, STAGE_NAMES
from common.taxonomy import IGNORE_INDEX, Taxonomy, taxonomy_from_json
from common.tiles import is_tile_id
from evaluation.report.page import Html, data_uri, el, flat, missing, open_picture
from evaluation.scoring.results import PHOTOS, PREDICTIONS_INDEX
from evaluation.study.evidence import Evidence
from evaluation.study.wording import starred

LARGE_VIEW = 520  # pixels of the screen for the large view of a tile
HATCH = 500  # least side of a picture of errors, so that its hatching is as fine on small tiles
OF_INDEX = {
    "taxonomy": is_object,
    "arms": list_of({"name": lambda name: is_text(name) and name in ARM_OF, "checkpoint_digest": is_text}),
    "seed": is_count,
    "split_digest": is_text,
    "minority_classes": list_of(is_text),
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


def read_predictions(args, evidence: Evidence) -> tuple[dict | None, list[str]]:
    """The index that evaluation.plot_predictions left, None where there is none; and what is wrong with it."""
    path = args.predictions_dir / PREDICTIONS_INDEX
    command = command_for("evaluation.plot_predictions", args)
    if not path.is_file():
        return None, []
    index = read_json(path, command)
    wrong = misfit(index, OF_INDEX)
    if wrong:
        raise UserError(f"{path} is not of this project: {wrong}. Write it again: {command}")
    taxonomy = taxonomy_from_json(index["taxonomy"], path)
    digests = {arm["name"]: arm["checkpoint_digest"] for arm in index["arms"]}
    seed, split = index["seed"], index["split_digest"]
    if not digests or not all(
        digests.keys() <= tile["scores"].keys() and list(tile["pixels"]) == list(taxonomy.classes)
        for tile in index["tiles"]
    ):
        raise UserError(f"{path} lacks arms, scores or pixels of a tile. Write it again: {command}")
    if taxonomy != evidence.taxonomy or split != evidence.results[0].tiles.split_digest:
        return index, [
            f"the predictions shown are of other val tiles or classes than the scores; draw again: {command}"
        ]
    other = []
    for name, digest in digests.items():
        scored = evidence.arms[name].last.get(seed) if name in evidence.arms else None
        if scored and scored.tiles.checkpoint_digest != digest:
            other.append(flat(ARM_OF[name]))
    if not other:
        return index, []
    shown = f"the predictions shown of {', '.join(other)} are of other checkpoints than the scores"
    return index, [f"{shown}; draw again: {command}"]


def read_ids(path: Path) -> np.ndarray:
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


def legend(taxonomy: Taxonomy, minority: list[str], *extra) -> Html:
    """The names of the classes beside their colours."""
    items = []
    for place, (name, color) in enumerate(zip(taxonomy.classes, taxonomy.colors, strict=True)):
        said = f"{name} (unlabelled)" if place == IGNORE_INDEX else starred(name, minority)
        items.append(
            el("li", el("span", class_="swatch", style=f"background:{color}"), said, data_color=color, data_name=name)
        )
    return el("ul", *items, *extra, class_="legend")


def view_map(view: str, title: str, caption: str, image: Html, shape: str, over: Html | None = None) -> Html:
    frame = el("div", image, over, class_="frame", style=f"aspect-ratio:{shape}")
    return el("figure", frame, el("figcaption", caption), class_="map", data_view=view, data_title=title)


def tile_panel(number: int, tile: dict, index: dict, args, start: str) -> Html:
    """A tile: image and truth, one large view, and the choice of what it shows."""
    folder, name = args.predictions_dir / tile["id"], f"tile-{number}"
    truth = read_ids(folder / "truth.png")
    shape = f"{truth.shape[1]} / {truth.shape[0]}"
    kind = "jpeg" if tile["image"].endswith("jpg") else "png"
    photo = el("img", src=data_uri((folder / tile["image"]).read_bytes(), kind), alt=f"Image of tile {tile['id']}")
    truth_uri = data_uri((folder / "truth.png").read_bytes(), "png")
    drawn = el("img", src=truth_uri, alt=f"True classes of tile {tile['id']}", class_="labels")
    reference = view_map("image", "Image", "Image", photo, shape) + view_map("truth", "Truth", "Truth", drawn, shape)

    maps, options = [], [("image", "Image", {}), ("truth", "Truth", {})]
    for known in index["arms"]:
        arm, scores = ARM_OF[known["name"]], tile["scores"][known["name"]]
        content = (folder / f"{arm.name}.png").read_bytes()
        preds = read_ids(folder / f"{arm.name}.png")
        told = "nothing labelled"
        if None not in (scores["OA"], scores["mIoU"]):
            told = f"mIoU {100 * scores['mIoU']:.0f}, OA {100 * scores['OA']:.0f}"
        about = f"{flat(arm)} on tile {tile['id']}"
        labels = el("img", src=data_uri(content, "png"), alt=f"Prediction of {about}: {told}", class_="labels")
        wrong = el(
            "img",
            src=data_uri(errors_picture(preds, truth), "png"),
            alt=f"Hatched where {about} is wrong",
            class_="errors",
        )
        maps.append(view_map(arm.name, flat(arm), f"{flat(arm)}: {told}", labels, shape, wrong))
        options.append((arm.name, flat(arm), scores))

    rows = [el("div", el("span"), el("span", "mIoU"), el("span", "OA"), class_="head", aria_hidden="true")]
    for view, title, scores in options:
        radio = el("input", type="radio", name=name, value=view, checked=view == start, autocomplete="off")
        shown = [f"{100 * scores[k]:.0f}" if scores.get(k) is not None else "" for k in ("mIoU", "OA")]
        rows.append(el("label", el("span", radio, title), *(el("span", text) for text in shown)))
    choice = el(
        "fieldset",
        el("legend", "Large view"),
        el("div", *rows, class_="options"),
        el("p", "Scores on this tile alone, %.", class_="note"),
        class_="choice",
        aria_label=f"Large view of tile {tile['id']}",
    )
    labelled = 1 - tile["pixels"][index["taxonomy"]["classes"][IGNORE_INDEX]] / (tile["height"] * tile["width"])
    facts = f"{tile['width']} × {tile['height']} pixels, {labelled:.0%} labelled, block {tile['block']}"
    width = round(LARGE_VIEW * min(1, truth.shape[1] / truth.shape[0]))
    readout = el("p", "Point at a map to read its classes.", class_="readout")
    stack = el("div", *maps, class_="predictions", data_void=index["taxonomy"]["classes"][IGNORE_INDEX])
    return el(
        "article",
        el("h3", tile["id"], " ", el("span", facts, class_="note")),
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


def predictions(evidence: Evidence, index: dict | None, args) -> list:
    """A panel a tile, whose large view switches between image, truth and the stages."""
    if index is None:
        command = command_for("evaluation.plot_predictions", args)
        return [missing("No pictures of predictions are there", command)]
    taxonomy = taxonomy_from_json(index["taxonomy"], args.predictions_dir / PREDICTIONS_INDEX)
    drawn = [arm["name"] for arm in index["arms"]]
    ranked = [scores.arm.name for scores in evidence.stages if scores.arm.name in drawn]
    start = ranked[0] if ranked else drawn[0]
    views = [("image", "Image"), ("truth", "Truth"), *((name, flat(ARM_OF[name])) for name in drawn)]
    everywhere = []
    for view, title in views:
        pick = {"type": "radio", "name": "all-tiles", "value": view, "checked": view == start, "autocomplete": "off"}
        name = title.split()[0] if view in STAGE_NAMES else title.removeprefix("control: ")
        everywhere.append(el("label", el("input", **pick, aria_label=title), name, title=title))
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
    panels = [tile_panel(number, tile, index, args, start) for number, tile in enumerate(index["tiles"], 1)]
    return [el("p", about), controls, *panels]
