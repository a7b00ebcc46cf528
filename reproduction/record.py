"""What was run before, how it ended, and what of it has to be run again."""

import contextlib
import shlex
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.files import locked
from reproduction.documents import DOCUMENTS, Step
from reproduction.plan import DOCUMENTED_SEED, ONE_PLACE, RUN_PER_SEED, Place, Run, needs


class Row(NamedTuple):
    step: str
    fold: str
    seed: str
    seconds: str
    exit_status: str  # or "running" (still there: nobody saw it end), or "outdated" (what it built on was made again)
    peak_memory_mb: str
    command: str

    @property
    def key(self) -> tuple[str, Place]:
        return self.step, Place(self.fold, self.seed)


def read_rows(path: Path) -> list[Row]:
    """The rows of a summary.tsv, none if it is not there; those of an earlier version have no fold."""
    header, *lines = path.read_text("utf-8").splitlines() if path.is_file() else [""]
    names = header.split("\t")
    cells = [line.split("\t") for line in lines]
    if not set(Row._fields) - {"fold"} <= set(names):
        return []
    rows = [{"fold": ""} | dict(zip(names, row, strict=True)) for row in cells if len(row) == len(names)]
    return [Row(*(row[name] for name in Row._fields)) for row in rows]


class Record:
    """The table logs/summary.tsv: how each step of each fold or seed last ended.

    With ``shared`` others write it as well, such as one run for each fold: only what this run writes is changed.
    """

    def __init__(self, path: Path, steps: list[Step], shared: bool = False):
        self.path = path
        self.steps = {step.name: step for step in steps}
        self.shared = shared
        self.rows = self._read()
        self._written: dict[tuple[str, Place], Row] = {}

    def _read(self) -> dict[tuple[str, Place], Row]:
        return {row.key: row for row in read_rows(self.path) if row.step in self.steps}

    def of(self, run: Run) -> Row | None:
        return self.rows.get((run.step.name, run.place))

    def is_training(self, row: Row) -> bool:
        return self.steps[row.step].document == RUN_PER_SEED

    def has_finished(self, run: Run) -> bool:
        row = self.of(run)
        return row is not None and row.exit_status == "0" and _essence(shlex.split(row.command)) == _essence(run.argv)

    def built_on(self, run: Run) -> list[Row]:
        return [row for row in self.rows.values() if needs(self.steps[row.step], row.key[1], run)]

    def begin(self, run: Run) -> None:
        for row in self.built_on(run):
            self._written[row.key] = row._replace(exit_status="outdated")
        self.write(run, "", "running", "")

    def write(self, run: Run, seconds: str, status: int | str, memory: int | str) -> None:
        row = Row(run.step.name, run.fold, run.seed, seconds, str(status), str(memory), shlex.join(run.argv))
        self._written[row.key] = row
        with locked(self.path) if self.shared else contextlib.nullcontext():
            self.rows = (self._read() if self.shared else self.rows) | self._written
            self._save()

    def _save(self) -> None:
        rows = sorted(self.rows.values(), key=self._order)
        partial = self.path.with_suffix(".partial")
        partial.write_text("\n".join("\t".join(row) for row in [Row._fields, *rows]) + "\n", "utf-8")
        partial.replace(self.path)

    def _order(self, row: Row) -> tuple:
        step = self.steps[row.step]
        return DOCUMENTS.index(step.document), int(row.fold or 0), int(row.seed or 0), step.position


def _essence(words: list[str]) -> str:
    """A command without the flags that do not change its results; --seed, if given, comes last."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in ("--root", "--workers"):
            next(rest)
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return shlex.join(kept).removesuffix(f" --seed {DOCUMENTED_SEED}")


def choose(runs: list[Run], record: Record, resume: bool, keep_once: bool = False) -> list[Run]:
    """The runs to be made: all, or with --resume those that are not finished, and those that build on them.

    With ``keep_once`` what runs once is not made again either.
    """
    chosen = []
    for run in runs:
        outdated = any(needs(run.step, run.place, earlier) for earlier in chosen)
        keep = resume or (keep_once and run.place == ONE_PLACE)
        if outdated or not keep or not record.has_finished(run):
            chosen.append(run)
    return chosen


def keep_trainings(chosen: list[Run], record: Record, resume: bool) -> None:
    """Raise UserError if a training that is recorded as finished would be made again."""
    for run in chosen:
        for row in [record.of(run), *record.built_on(run)]:
            if row and record.is_training(row) and row.exit_status == "0":
                of = f"fold {row.fold}" if row.fold else f"seed {row.seed}"
                raise UserError(
                    f"{record.path}: {row.step} of {of} was finished by\n    {row.command}\n"
                    f"and would be made again, since this is to run:\n    {shlex.join(run.argv)}\n"
                    f"Keep it {'by the flags that were given then' if resume else 'with --resume'}, "
                    "or replace it with --overwrite"
                )


def continue_trainings(chosen: list[Run], record: Record) -> None:
    """Give --resume to each command that takes it, unless --overwrite is to replace what is outdated or was refused."""
    for run in chosen:
        row = record.of(run)
        replaced = row and row.exit_status in ("0", "2", "outdated") and "--overwrite" in run.argv
        if run.can_resume and not replaced:
            run.argv = [word for word in run.argv if word != "--overwrite"] + ["--resume"]
