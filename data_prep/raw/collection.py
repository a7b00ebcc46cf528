"""What is said of raw tiles together: systems, types and units among them, and what of their labels is lost."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from common.bands import named
from common.taxonomy import Taxonomy
from common.text import first_lines, some
from data_prep.raw.files import Problem
from data_prep.raw.inspect import Inspection, system_name

RGB = ("red", "green", "blue")
UNITS_GAP = 8.0  # brightness of one sensor differs less than this between neighbours in rank
COMMON_VOID = 0.01  # share of all pixels, from which void is no exception
FEWEST_BORDERS = 100  # with an id between, under which nothing is said of them
BETWEEN = 0.25  # as many as those with none, from which it is; 0.001 to 0.08 in drawn masks, about 1 in resized ones
SHOWN = 5  # problems of one kind that are shown


def mixed_systems(inspections: list[Inspection]) -> str | None:
    """How many tiles are in which coordinate system, if they are in several; None if all are in one."""
    systems = Counter(i.location["crs"] for i in inspections if i.is_located)
    if len(systems) < 2:
        return None
    names = [f"{count} in {system_name(crs)}" for crs, count in systems.most_common()]
    rarest = systems.most_common()[-1][0]
    odd = [i.tile.id for i in inspections if i.is_located and i.location["crs"] == rarest]
    return (
        f"tiles are in {len(systems)} coordinate systems, {', '.join(names)} ({some(odd)}): a tile with a wrong one is "
        "put in another area than its neighbours. If it is wrong: rio edit-info --crs EPSG:CODE FILE"
    )


def repeated_images(inspections: list[Inspection]) -> dict[str, str]:
    """{tile id: id of the first tile with the same image} of each tile that repeats an earlier one."""
    first, repeated = {}, {}
    for inspection in inspections:
        if inspection.content:
            original = first.setdefault(inspection.content, inspection.tile.id)
            if original != inspection.tile.id:
                repeated[inspection.tile.id] = original
    return repeated


def mixed_types(inspections: list[Inspection]) -> str | None:
    """How many tiles are of which type, if they are of several; None if all are alike."""
    types = Counter(f"{i.dtype} with {i.band_count} bands" for i in inspections)
    if len(types) < 2:
        return None
    text = "; ".join(f"{tiles} tiles are {name}" for name, tiles in types.most_common())
    if any(i.needs_stretch for i in inspections) and not all(i.needs_stretch for i in inspections):
        text += ". Those of 8 bit are taken as they are, the others are scaled: see that both come out alike"
    return text


def other_order(inspections: list[Inspection]) -> str | None:
    """How to ask for bands that files declare as red, green and blue in another order; None if none do."""
    inspections = [i for i in inspections if i.bands[:3] == (1, 2, 3) and set(RGB) <= set(i.all_colors)]
    odd = [i for i in inspections if i.colors[:3] != RGB]
    if not odd:
        return None
    visible = [odd[0].all_colors.index(color) + 1 for color in RGB]
    order = named([*visible, *(band for band in odd[0].bands if band not in visible)][: len(odd[0].bands)])
    return (
        f"{len(odd)} tiles declare bands 1 2 3 as {', '.join(odd[0].colors[:3])}, and these are taken as red, green "
        f"and blue ({some([i.tile.id for i in odd])}). --bands {order} takes them as they are declared"
    )


def mixed_units(inspections: list[Inspection]) -> str | None:
    """Why one range cannot serve all tiles that need scaling, or None if it can.

    Tiles are ranked by their brightest band's 98th percentile. A gap of more than UNITS_GAP in that rank, with
    at least two tiles and one tile in fifty on each side, means other units (reflectance beside counts, say).
    """
    ranges = [i.ranges for i in inspections if i.needs_stretch and i.ranges]
    tops = np.sort([max(abs(high) for _, high in of_bands) for of_bands in ranges])
    tops = tops[tops > 0]
    margin = max(2, len(tops) // 50)
    ratios = tops[1:] / tops[:-1]
    inner = ratios[margin - 1 : len(ratios) - margin + 1]
    if not inner.size or inner.max() <= UNITS_GAP:
        return None
    at = int(inner.argmax()) + margin
    return (
        f"{at} tiles have values up to about {np.median(tops[:at]):.3g}, {len(tops) - at} up to about "
        f"{np.median(tops[at:]):.3g}: they seem to be in different units, which one range cannot serve; "
        "use --stretch tile"
    )


def declared(inspections: list[Inspection]) -> dict:
    """What the raw images say of themselves: ``dtypes``, of all, and ``colors``, what most call the chosen bands."""
    colors = Counter(i.colors for i in inspections)
    return {"dtypes": sorted({i.dtype for i in inspections}), "colors": list(colors.most_common(1)[0][0])}


def lost_labels(entries: Mapping[str, dict]) -> str | None:
    """How many labels the tiles of a set lost when it was written, in all and of those that lost most; None for none.

    ``entries``: of its manifest, by tile.
    """
    lost = {tile_id: entry["lost_labels"] for tile_id, entry in entries.items() if entry.get("lost_labels")}
    if not lost:
        return None
    shares = {tile_id: count / (sum(entries[tile_id]["pixels"][1:]) + count) for tile_id, count in lost.items()}
    names = some([f"{tile_id} {shares[tile_id]:.1%}" for tile_id in sorted(lost, key=lambda name: (-lost[name], name))])
    total = sum(lost.values())
    labelled = total + sum(sum(entry["pixels"][1:]) for entry in entries.values())
    return (
        f"{total:,} labelled pixels of {len(lost)} tiles ({total / labelled:.1%} of all) are not labelled any more, as "
        f"the image has no data there, or another tile shows the strip: {names}"
    )


def labels_without_data(inspections: list[Inspection]) -> str | None:
    """How many labels tiles lose because the image has no data there; None for none."""
    return lost_labels({i.tile.id: {"pixels": i.pixels, "lost_labels": i.lost} for i in inspections if i.pixels})


def looks_zero_based(pixels: np.ndarray, taxonomy: Taxonomy) -> str | None:
    """Why ids seem to count classes from 0, where void is, rather than from 1; None if they do not.

    They do if the last class occurs nowhere, the one before it does, and void is common.

    Args:
        pixels: (C,) count of each id in all masks.
    """
    if pixels[-1] or not pixels[-2] or pixels[0] < COMMON_VOID * pixels.sum():
        return None
    return (
        f"no tile has {taxonomy.classes[-1]}, the last class, while {pixels[0] / pixels.sum():.1%} of all pixels are "
        f"{taxonomy.void} (id 0). If the masks count classes from 0, each is taken for the one before it: add 1 to "
        "every id"
    )


def looks_interpolated(inspections: list[Inspection]) -> str | None:
    """Why ids at borders seem to be made up, as resizing with interpolation does; None if they do not."""
    sharp, between = np.sum([i.borders for i in inspections], axis=0)
    if between < FEWEST_BORDERS or between <= BETWEEN * sharp:
        return None
    return (
        f"in masks {between:,} borders of two ids have one pixel of an id between them, and {sharp:,} have none, as "
        "where masks were resized or turned with interpolation: the ids along all borders are made up. Make the masks "
        "again with the nearest neighbour"
    )


def problem_lines(problems: list[Problem], rest: str) -> str:
    """Problems by kind, each kind with how many there are and the first SHOWN; ``rest``: said of how many more."""
    by_kind = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem.text)
    return "\n".join(
        f"  {kind} ({len(texts)})\n{first_lines(texts, SHOWN, indent='    ', rest=rest)}"
        for kind, texts in by_kind.items()
    )
