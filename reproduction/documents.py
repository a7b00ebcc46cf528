"""The REPRODUCE files as steps: reading them, and finding one by name or number."""

import difflib
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = ("REPRODUCE_DATA.md", "REPRODUCE_TRAINING.md", "REPRODUCE_EVALUATION.md")
NEEDS = "- Needs: "  # begins the line that says what a step takes, and which steps of its document make that
# Where a step is run in a study by folds: once, in the first fold alone, or, if its text says neither, in each.
WHERE = {"Once for all folds.": "once for all folds", "In fold 1 alone.": "in fold 1 alone"}
ONCE, FIRST = WHERE.values()
OPENEARTHMAP = "Needs OpenEarthMap."  # the line of a step that reproduce.py --no-openearthmap leaves out
EACH = "in each fold"
# What a heading may end in, and the flag of reproduce.py with which such steps run.
MARKS = {"control": "--controls", "rival": "--rivals", "map": "--map"}
SHELL_SYNTAX = re.compile(r"[$`*?;|&<>~]")  # what bash would expand or chain


@dataclass
class Step:
    document: str
    number: int
    title: str
    argv: list[str] = field(default_factory=list)  # python -m package.module --flags
    name: str = ""
    position: int = 0  # among all steps, marked ones included: a step has one number whatever is run
    builds_on: set[int] | None = None  # numbers in its document, with those that they build on; None for all before it
    where: str = EACH
    needs_openearthmap: bool = False

    @property
    def module(self) -> str:
        return self.argv[2]

    @property
    def mark(self) -> str | None:
        """control, rival or map; None for a step that always runs."""
        marked = re.search(r"\((\w+)\)$", self.title)
        return marked[1] if marked and marked[1] in MARKS else None

    def __str__(self) -> str:
        return f"{self.document}, step {self.number} ({self.title})"


def read_blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield (kind, line number, content) of each # or ## heading (``heading``), fenced block (its language), and line
    that says what a step needs (``needs``), that it needs OpenEarthMap (``openearthmap``), or where it runs in a study
    by folds (``where``)."""
    fence, language, start, block = "", "", 0, []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        mark = re.match(r"\s*(`{3,}|~{3,})\s*(\w*)", line)
        if fence and mark and mark[1].startswith(fence) and not mark[2]:
            yield language, start, "\n".join(block)
            fence = ""
        elif fence:
            block.append(line)
        elif mark:
            fence, language, start, block = mark[1], mark[2], number, []
        elif re.match(r"##? ", line):
            yield "heading", number, line.lstrip("#").strip()
        elif line.startswith(NEEDS):
            rest = itertools.takewhile(lambda line: line.startswith("  "), lines[number:])
            yield "needs", number, " ".join([line, *map(str.strip, rest)])
        elif line in WHERE:
            yield "where", number, line
        elif line == OPENEARTHMAP:
            yield "openearthmap", number, line
    if fence:
        raise UserError(f"line {start}: the {language} block that begins here is never closed")


def parse_command(block: str) -> list[str]:
    """The words of the one ``python -m package.module --flags`` of a bash block; UserError on anything else."""
    try:
        commands = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    except ValueError:  # a quotation that is not closed
        commands = []
    commands = [words for words in commands if words]
    words = commands[0] if len(commands) == 1 else []
    if words[:2] != ["python", "-m"] or len(words) < 3 or any(SHELL_SYNTAX.search(word) for word in words):
        raise UserError(
            f"found {block!r}; the bash block of a numbered step holds one command of the form python -m "
            "package.module --flags, without other shell syntax. Anything else belongs in a console block"
        )
    return words


def read_needs(text: str, line: int, steps: list[Step]) -> set[int]:
    """The numbers of the steps that the last of ``steps`` builds on, and of all that those build on.

    ``text`` names their modules, such as `training.train_teacher`. Modules of other documents are ignored: their steps
    run earlier anyway.
    """
    package = steps[-1].module.split(".")[0]
    direct = set()
    for module in re.findall(rf"`({package}\.\w+)`", text):
        makers = {step.number for step in steps[:-1] if step.module == module}
        if not makers:
            raise UserError(f"line {line}: found {text!r}; no earlier step of the document runs {module}")
        direct |= makers
    behind = [set(range(1, n)) if (known := steps[n - 1].builds_on) is None else known for n in direct]
    return direct.union(*behind)


def read_document(folder: Path, document: str) -> list[Step]:
    steps, step, needs = [], None, None
    try:
        for kind, line, content in [*read_blocks((folder / document).read_text("utf-8")), ("heading", 0, "")]:
            if kind == "heading":
                if step and not step.argv:
                    raise UserError(f"step {step.number} ({step.title}) has no bash block; each has exactly one")
                if step and needs:
                    step.builds_on = read_needs(*needs, steps)
                step = needs = None
                if numbered := re.fullmatch(r"(\d+)\. +(.+)", content):
                    step = Step(document, int(numbered[1]), numbered[2])
                    steps.append(step)
                    if step.number != len(steps):
                        raise UserError(f"line {line}: found step {step.number}, expected step {len(steps)}")
            elif kind == "needs":
                needs = content, line
            elif kind == "where" and step:
                step.where = WHERE[content]
            elif kind == "openearthmap" and step:
                step.needs_openearthmap = True
            elif kind == "bash":
                if step is None or step.argv:
                    problem = "second bash block in one step" if step else "bash block outside the numbered steps"
                    raise UserError(f"line {line}: {problem}; what is not to be run is fenced as ```console")
                step.argv = parse_command(content)
                if not folder.joinpath(*step.module.split(".")).with_suffix(".py").is_file():
                    raise UserError(f"step {step.number} ({step.title}): there is no module {step.module} in {folder}")
        if not steps:
            raise UserError("there is no numbered step (## 1. Title) in it")
    except UserError as error:
        raise UserError(f"{document}: {error}") from None
    return steps


def read_steps(folder: Path, documents: Sequence[str] = DOCUMENTS) -> list[Step]:
    """The steps of all documents in order, marked ones included, each with a name of its own."""
    steps = [step for document in documents for step in read_document(folder, document)]
    modules = Counter(step.module.split(".")[-1] for step in steps)
    for position, step in enumerate(steps, 1):
        step.position, step.name = position, step.module.split(".")[-1]
        if modules[step.name] > 1:
            words = [part for word in step.argv[3:] for part in word.split("=", 1)]
            values = [word for word in words if not word.startswith("--")] or [word[2:] for word in words]
            step.name = re.sub(r"[^\w.-]+", "-", "-".join([step.name, *values]))
    for name, times in Counter(step.name for step in steps).items():
        if times > 1:
            same = "; ".join(str(step) for step in steps if step.name == name)
            raise UserError(f"{times} steps have the same command or name {name}: {same}")
    return steps


def asked_for(steps: list[Step], marks: Collection[str]) -> list[Step]:
    """The steps without a mark, and those with one of ``marks``."""
    return [step for step in steps if step.mark is None or step.mark in marks]


def find_step(steps: list[Step], flag: str, text: str, marks: Collection[str]) -> int:
    """The position of a step given by name or by number.

    Raises UserError if there is none, or if it has a mark that is not among ``marks``.
    """
    matches = [step for step in steps if text in (step.name, str(step.position))]
    if matches and not asked_for(matches, marks):
        mark = str(matches[0].mark)
        raise UserError(f"{flag} {text}: {matches[0].name} is a {mark}. Give {MARKS[mark]} as well")
    if matches:
        return matches[0].position
    names = [step.name for step in asked_for(steps, marks)]
    close = [name for name in names if text in name] or difflib.get_close_matches(text, names)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"{flag} {text}: no such step.{hint} --list numbers them; by name: {', '.join(names)}")
