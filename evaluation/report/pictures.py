"""Pictures that are inside the file of a report."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image, features

from common.errors import UserError
from evaluation.scoring.results import METRICS
from evaluation.study.evidence import Evidence


class Picture(NamedTuple):
    """A picture inside the file: its address, and the size in CSS pixels for which it was drawn."""

    uri: str
    width: int
    height: int


def data_uri(path: Path, content: bytes | None = None, kind: str | None = None) -> str:
    """A picture as an address: the file at ``path``, or other ``content`` of another ``kind`` (png, jpeg or webp)."""
    kind = kind or ("jpeg" if path.suffix == ".jpg" else "png")
    return f"data:image/{kind};base64,{base64.b64encode(content or path.read_bytes()).decode()}"


def picture_of(path: Path) -> Picture | None:
    """A figure of the project, stored without loss; None if there is no file, UserError if it is no picture."""
    if not path.is_file():
        return None
    with open_picture(path) as picture:
        dots = picture.info.get("dpi", (96, 96))[0]
        width, height = (round(length * 96 / dots) for length in picture.size)
        uris = [data_uri(path)]
        if features.check("webp"):
            smaller = io.BytesIO()
            picture.convert("RGB").save(smaller, "WEBP", lossless=True, method=1)
            uris.append(data_uri(path, smaller.getvalue(), "webp"))
    return Picture(min(uris, key=len), width, height)


def open_picture(path: Path) -> Image.Image:
    """A picture, read whole; UserError if it is none."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}). Run the step that wrote it again.") from None
    return picture


def study_figure(evidence: Evidence, path: Path) -> tuple[Picture | None, bool]:
    """A figure of evaluation.aggregate_metrics, None if it was not drawn, and whether it is older than the results."""
    newest = max((result.folder / METRICS).stat().st_mtime for result in evidence.results)
    return picture_of(path), path.is_file() and path.stat().st_mtime < newest
