"""Pieces of an HTML report: escaped elements, tables, folds and figures that are inside the file."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, features

from common.errors import UserError
from common.inputs import Command, Input

VOID_ELEMENTS = ("img", "input")


class Html(str):
    """Text that is HTML already; any other is escaped where it enters an element, or is added to this."""

    def __add__(self, other: object) -> "Html":
        return joined([self, other])


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` is class, ``data_view`` is data-view; True stands alone, None and False are left out."""
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{html.escape(str(value))}"'
    opening = f"<{name}{written}>"
    return Html(opening) if name in VOID_ELEMENTS else Html(f"{opening}{joined(children)}</{name}>")


def joined(parts: Iterable, between: str = "") -> Html:
    """Parts one after the other, those that are not Html escaped; None is left out."""
    escaped = (part if isinstance(part, Html) else html.escape(str(part)) for part in parts if part is not None)
    return Html(between.join(escaped))


def listed(items: Iterable, **attributes: object) -> Html | None:
    """A list; None where there is no item."""
    items = [el("li", item) for item in items]
    return el("ul", *items, **attributes) if items else None


def described(values: dict[str, object]) -> Html:
    """Names and their values; a name without a value is left out."""
    pairs = [el("dt", name) + el("dd", value) for name, value in values.items() if value not in (None, "")]
    return el("dl", *pairs, class_="facts")


def html_table(
    caption: str,
    header: list,
    rows: list[list],
    *,
    text: Iterable[str] = (),
    groups: Iterable[tuple[str, int]] = (),
    first: int | None = None,
    dense: bool = False,
) -> Html:
    """A table that scrolls sideways where it is wide; the first cell of each row is its heading.

    ``text`` names the columns that hold words, which start at the left. ``groups`` are headings above the header, each
    with the number of columns it is over. ``first`` is the index of a row to be marked; ``dense`` is for many columns.
    """
    kinds = ["text" if name in text else None for name in header]
    columns = el("tr", *(el("th", cell, scope="col", class_=kind) for cell, kind in zip(header, kinds, strict=True)))
    above = [
        el("th", name, scope="colgroup", colspan=span, class_="group") if name else el("td", colspan=span)
        for name, span in groups
    ]
    body = []
    for index, row in enumerate(rows):
        cells = [el("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        body.append(el("tr", el("th", row[0], scope="row"), *cells, class_="first" if index == first else None))
    head = el("thead", el("tr", *above) if above else None, columns)
    content = el("table", el("caption", caption), head, el("tbody", *body), class_="dense" if dense else None)
    return el("div", content, class_="scroll")


def fold(title: Html, *children: object, identity: str | None = None) -> Html:
    """Something that opens on demand, by mouse or keyboard, and is printed open."""
    return el("details", el("summary", title), el("div", *children, class_="inside"), id=identity)


def missing(problem: str, command: Command, source: Input | None = None) -> Html:
    """Says what is not there, at ``source`` where that helps, and which command makes it."""
    path = Html(f" ({el('code', source)})") if source else None
    return el("p", problem, path, ". To have it, run ", el("code", command), class_="missing")


def data_uri(content: bytes, kind: str) -> str:
    """A picture (``kind`` is png, jpeg or webp) as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(path: Path, alt: str, caption: str | None = None) -> Html | None:
    """A figure of the project, at the size it was drawn for, stored without loss; None where there is no file."""
    if not path.is_file():
        return None
    with open_picture(path) as picture:
        dots = picture.info.get("dpi", (96, 96))[0]
        width, height = (round(length * 96 / dots) for length in picture.size)
        content, kind = path.read_bytes(), "png"
        if features.check("webp"):
            smaller = io.BytesIO()
            picture.convert("RGB").save(smaller, "WEBP", lossless=True, method=1)
            content, kind = min((content, "png"), (smaller.getvalue(), "webp"), key=lambda stored: len(stored[0]))
    image = el("img", src=data_uri(content, kind), alt=alt, width=width, height=height)
    return el("figure", image, el("figcaption", caption) if caption else None)


def open_picture(path: Path) -> Image.Image:
    """A picture, read whole; UserError where it is none."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}). Run the step that wrote it again.") from None
    return picture


def nowrap(text: str) -> str:
    """The text on one line."""
    return text.replace(" ", "\u00a0")
