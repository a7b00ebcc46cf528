"""Sheets of pictures of an audit: examples of tiles, and each suspicious mask beside its image."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure, SubFigure
from scipy import ndimage

from common.bands import to_picture
from common.figures import class_legend, color_mask, new_figure
from common.raw_images import Reading, read_raw
from common.taxonomy import IGNORE_INDEX, Taxonomy
from data_prep.audit.faults import Suspect
from data_prep.raw.inspect import Inspection
from data_prep.tile_sets.class_shares import plot_class_bars
from data_prep.tile_sets.groups import TileGroup

SHEET_ROWS, SHEET_PAGES = 5, 10  # rows of two tiles
GROUP_ROWS, GROUP_COLUMNS = 8, 8  # groups and tiles of each on the sheet of the largest
PANEL_PIXELS = 400  # of a tile on the sheet, at most about


def example_tiles(inspections: list[Inspection], taxonomy: Taxonomy, count: int) -> list[Inspection]:
    """For one class after another the tile it shares most evenly with others, none twice, until there are ``count``."""
    chosen: list[Inspection] = []
    rank = 0
    pixels = np.array([i.pixels for i in inspections])
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-shares * (1 - shares), axis=0, kind="stable")
    while len(chosen) < min(count, len(inspections)) and rank < len(inspections):
        for k in range(1, taxonomy.num_classes):
            candidate = inspections[order[rank, k]]
            if pixels[order[rank, k], k] and candidate not in chosen and len(chosen) < count:
                chosen.append(candidate)
        rank += 1
    return chosen


def plot_audit(inspections: list[Inspection], shares: dict[str, dict], taxonomy: Taxonomy, reading: Reading) -> Figure:
    """Figure of class shares, as ``class_shares`` gives them, over example tiles with their masks."""
    examples = example_tiles(inspections, taxonomy, 6)
    figure = new_figure(12, 7.6)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.7]))
    left, right = top.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (left, "share", "share of labelled pixels, %"),
        (right, "tile_presence", f"tiles that contain the class, % of {len(inspections)}"),
    ):
        percent = [100 * shares[name][key] for name in taxonomy.foreground]
        plot_class_bars(axes, list(taxonomy.foreground), percent, taxonomy, label)
        axes.set_xlim(0, 1.12 * max([*percent, 1]))
    left.invert_yaxis()
    grid = bottom.subplots(2, max(len(examples), 1), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for column, example in enumerate(examples):
        raw = read_raw(example.tile.image, reading)
        grid[0, column].imshow(to_picture(raw.to_8bit(example.ranges)))
        grid[0, column].set_title(example.tile.id, fontsize=8)
        mask = np.where(raw.valid, example.tile.read_mask(), np.uint8(IGNORE_INDEX))
        grid[1, column].imshow(color_mask(mask, taxonomy), interpolation="nearest")
    class_legend(figure, taxonomy)
    return figure


def plot_groups(groups: list[TileGroup], inspections: dict[str, Inspection], reading: Reading) -> Figure:
    """Figure of the largest groups of more than one tile, of which there is at least one, a row each."""
    tied = sorted((g for g in groups if len(g.tiles) > 1), key=lambda g: -len(g.tiles))
    shown = tied[:GROUP_ROWS]
    columns = min(GROUP_COLUMNS, len(shown[0].tiles))
    figure = new_figure(max(1.6 * columns, 6), 1.9 * len(shown) + 0.6)
    counted = f"the {len(shown)} largest of {len(tied)} groups" if len(tied) > len(shown) else f"{len(tied)} groups"
    figure.suptitle(f"Tiles that show the same area: {counted}", fontsize=11)
    for group, row in zip(shown, figure.subplots(len(shown), columns, squeeze=False), strict=True):
        for axes in row:
            axes.set_axis_off()
        for column, tile_id in enumerate(group.tiles[:columns]):
            image = read_raw(inspections[tile_id].tile.image, reading).to_8bit(inspections[tile_id].ranges)
            step = max(1, min(image.shape[1:]) // PANEL_PIXELS)
            row[column].imshow(to_picture(image[:, ::step, ::step]))
            row[column].set_title(tile_id, fontsize=6)
        rest = f", {len(group.tiles) - columns} more" if len(group.tiles) > columns else ""
        row[0].text(0, -0.04, ", ".join(group.tied_by) + rest, fontsize=7, va="top", transform=row[0].transAxes)
    return figure


def fill_and_outline(image: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, W, 3) uint8 image under a thin wash of the mask's colours, with its outlines in full colour."""
    colors = color_mask(mask, taxonomy)
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    width = max(1, min(mask.shape) // 100)
    edge = ndimage.binary_dilation(edge, iterations=width)
    return np.where(edge[..., None], colors, (0.75 * image + 0.25 * colors).astype(np.uint8))


def shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """(H, W) uint8 mask moved by some pixels; void comes in from outside."""
    return ndimage.shift(mask, (down, right), order=0, cval=IGNORE_INDEX)


def plot_suspect(
    figure: SubFigure,
    rank: int,
    suspect: Suspect,
    inspections: dict[str, Inspection],
    taxonomy: Taxonomy,
    reading: Reading,
) -> None:
    """A suspect's image, mask, mask over the image, and what would fit better."""

    def read_rgb(tile_id: str) -> tuple[np.ndarray, np.ndarray]:
        raw = read_raw(inspections[tile_id].tile.image, reading)
        return raw.valid, to_picture(raw.to_8bit(inspections[tile_id].ranges))

    valid, image = read_rgb(suspect.tile_id)
    mask = np.where(valid, inspections[suspect.tile_id].tile.read_mask(), np.uint8(IGNORE_INDEX))
    if suspect.move is not None:
        better, better_title = fill_and_outline(image, shifted(mask, *suspect.move), taxonomy), "mask moved"
    elif suspect.twin is not None:
        better, better_title = read_rgb(suspect.twin)[1], f"image of {suspect.twin}"
    else:
        better, better_title = color_mask(np.asarray(suspect.expected), taxonomy), "what the image looks like"
    panels = {
        "image": image,
        "mask": color_mask(mask, taxonomy),
        "mask over image": fill_and_outline(image, mask, taxonomy),
        better_title: better,
    }
    figure.suptitle(f"{rank}. {suspect.tile_id}\n{suspect.reason}", fontsize=9, x=0.02, ha="left")
    for axes, (title, pixels) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        step = max(1, min(pixels.shape[:2]) // PANEL_PIXELS)
        axes.imshow(pixels[::step, ::step], interpolation="nearest")
        axes.set_title(title, fontsize=7)
        axes.set_axis_off()


def plot_suspects(
    suspects: list[Suspect], inspections: dict[str, Inspection], taxonomy: Taxonomy, reading: Reading
) -> Iterator[Figure]:
    """Yield the pages of the contact sheet, the most suspicious first; inspections by tile id."""
    each = 2 * SHEET_ROWS
    shown = suspects[: each * SHEET_PAGES]
    for start in range(0, len(shown), each):
        page = shown[start : start + each]
        columns = 1 if len(page) <= SHEET_ROWS else 2
        rows = -(-len(page) // columns)
        figure = new_figure(8.5 * columns, 2.75 * rows + 1)
        counted = f"{start + 1} to {start + len(page)} of {len(suspects)}" if len(suspects) > each else len(suspects)
        figure.suptitle(f"Masks that are likely wrong: {counted}, most suspicious first", fontsize=12)
        class_legend(figure, taxonomy)
        parts = figure.subfigures(rows, columns, squeeze=False)
        for place, suspect in enumerate(page):
            plot_suspect(parts.T.flat[place], start + place + 1, suspect, inspections, taxonomy, reading)
        yield figure
