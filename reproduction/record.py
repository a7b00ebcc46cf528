"""What was run before, how it ended, and what of it has to be run again."""

import shlex
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from reproduction.documents import DOCUMENTS, Step
from reproduction.plan import Run, needs

DOCUMENTED_SEED = "42"  # the default of every script


class Row(NamedTuple):
    step: str
    seed: str
    seconds: str
    exit_status: str  # or "running" (still there: nobody saw it end), or "outdated" (what it built on was made again)
    peak_memory_mb: str
    command: str


class Record:
    """The table logs/summary.tsv: how each step of each seed last ended."""

    def __init__(self, path: Path, steps: list[Step]):
        self.path = path
        self.steps = {step.name: step for step in steps}
        lines = path.read_text("utf-8").splitlines()[1:] if path.is_file() else []
        rows = [Row(*line.split("\t")) for line in lines if line.count("\t") == len(Row._fields) - 1]
        self.rows = {(row.step, row.seed): row for row in rows if row.step in self.steps}

    def of(self, run: Run) -> Row | None:
        return self.rows.get((run.step.name, run.seed))

    def has_finished(self, run: Run) -> bool:
        row = self.of(run)
        return row is not None and row.exit_status == "0" and _essence(shlex.split(row.command)) == _essence(run.argv)

    def built_on(self, run: Run) -> list[Row]:
        return [row for row in self.rows.values() if needs(self.steps[row.step], row.seed, run)]

    def begin(self, run: Run) -> None:
        for row in self.built_on(run):
            self.rows[row.step, row.seed] = row._replace(exit_status="outdated")
        self.write(run, "", "running", "")

    def write(self, run: Run, seconds: str, status: int | str, memory: int | str) -> None:
        row = Row(run.step.name, run.seed, seconds, str(status), str(memory), shlex.join(run.argv))
        self.rows[row.step, row.seed] = row
        rows = sorted(self.rows.values(), key=self._order)
        partial = self.path.with_suffix(".partial")
        partial.write_text("\n".join("\t".join(row) for row in [Row._fields, *rows]) + "\n", "utf-8")
        partial.replace(self.path)

    def _order(self, row: Row) -> tuple:
        step = self.steps[row.step]
        return DOCUMENTS.index(step.document), int(row.seed or 0), step.position


def _essence(words: list[str]) -> str:
    """A command without what does not change its results; --seed, where given, ends it."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in ("--root", "--workers"):
            next(rest)
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return shlex.join(kept).removesuffix(f" --seed {DOCUMENTED_SEED}")


def choose(runs: list[Run], record: Record, resume: bool) -> list[Run]:
    """The runs to be made: all, or with --resume those that are not finished, and those that build on them."""
    chosen = []
    for run in runs:
        outdated = any(needs(run.step, run.seed, earlier) for earlier in chosen)
        if outdated or not resume or not record.has_finished(run):
            chosen.append(run)
    return chosen


def keep_trainings(chosen: list[Run], record: Record, resume: bool) -> None:
    """UserError where a training that is recorded as finished would be made again."""
    for run in chosen:
        for row in [record.of(run), *record.built_on(run)]:
            if row and row.seed and row.exit_status == "0":
                raise UserError(
                    f"{record.path}: {row.step} of seed {row.seed} was finished by\n    {row.command}\n"
                    f"and would be made again, since this is to run:\n    {shlex.join(run.argv)}\n"
                    f"Keep it {'by the flags that were given then' if resume else 'with --resume'}, "
                    "or replace it with --overwrite"
                )


def continue_trainings(chosen: list[Run], record: Record) -> None:
    """Give --resume to what takes it, but not where --overwrite is to replace what is outdated or was refused."""
    for run in chosen:
        row = record.of(run)
        replaced = row and row.exit_status in ("0", "2", "outdated") and "--overwrite" in run.argv
        if run.can_resume and not replaced:
            run.argv = [word for word in run.argv if word != "--overwrite"] + ["--resume"]
