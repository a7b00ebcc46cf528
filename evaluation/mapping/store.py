"""The strips of a map on disk until it is complete: one file each, so that a run can be resumed and shared."""

import io
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import digest_json, json_text, read_json
from common.inputs import Command, Input
from evaluation.mapping.strips import Strip
from evaluation.scoring.results import read_arrays

PLAN = "plan.json"
CONFIDENCE = "sum_of_confidence"


class StripStore:
    """A folder beside the map that gets its strips; the map is written from it, and it goes.

    Several processes may write into one, each its own strips.
    """

    def __init__(self, out: Path, plan: dict, command: Command) -> None:
        """Take the folder of a map.

        Args:
            out: the map.
            plan: all that the bytes of the map depend on, in plain JSON values; ``layers`` among them.
            command: of this run.
        """
        self.path = out.with_name(f".{out.name}.strips")
        self._plan, self._command = plan, command

    def _strip(self, number: int) -> Path:
        return self.path / f"strip_{number:06d}.npz"

    def part(self, part: tuple[int, int]) -> Path:
        """What a process that makes a part of the map holds meanwhile."""
        return self.path.with_name(f"{self.path.name}.part{part[0]}of{part[1]}")

    @property
    def exists(self) -> bool:
        """Whether strips of a map that is not finished are there."""
        return self.path.is_dir()

    def open(self, go_on: bool, overwrite: bool) -> None:
        """Make the folder, or go on with the one that is there: with ``go_on``, even if ``overwrite`` is set too.

        Raises:
            UserError: it is there and neither ``go_on`` nor ``overwrite``, or it is of another plan.
        """
        if self.exists and not go_on:
            if not overwrite:
                again = self._command.resumed()
                raise UserError(f"{self.path} holds part of a map. Go on: {again}; or begin anew with --overwrite.")
            self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        self._publish(self.path / PLAN, json_text(self._plan).encode(), replace=False)
        begun = read_json(Input(self.path / PLAN, self._command))
        if digest_json(begun) != digest_json(self._plan):
            raise UserError(
                f"{self.path} was begun with another {', '.join(self._differences(begun))}. Give the same again, or "
                "begin anew with --overwrite."
            )

    def _publish(self, path: Path, content: bytes, *, replace: bool) -> None:
        """Write a file completely or not at all, even if another process writes the same one at the same time."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(partial, path)
            else:
                try:
                    os.link(partial, path)
                except FileExistsError:
                    pass
                except OSError:  # a disk without links
                    if not path.exists():
                        os.replace(partial, path)
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, str(path)) from None
        finally:
            partial.unlink(missing_ok=True)

    def _differences(self, before: dict) -> list[str]:
        keys = sorted(self._plan.keys() | before.keys())
        return [key for key in keys if self._plan.get(key) != before.get(key)]

    def missing(self, strips: Iterable[int]) -> list[int]:
        """Those of the strips that are not there."""
        return [number for number in strips if not self._strip(number).is_file()]

    def write(self, strip: Strip) -> None:
        """Write a strip, completely or not at all."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {**strip.layers, CONFIDENCE: np.float64(strip.confidence)}
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:  # numpy takes 6
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asanyarray(array))
        self._publish(self._strip(strip.number), content.getvalue(), replace=True)

    def read(self, number: int, *names: str) -> list[np.ndarray]:
        """Layers of a strip that was written, or CONFIDENCE, by name; UserError if it is damaged."""
        source = Input(self._strip(number), self._command)
        try:
            return list(read_arrays(source, names))
        except UserError:
            again = self._command.resumed()
            raise UserError(f"{source} cannot be read. Remove it, and make it again: {again}") from None

    def remove(self) -> None:
        shutil.rmtree(self.path)
