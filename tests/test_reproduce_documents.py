"""reproduce.py reads the documents: their steps, names, numbers and what they build on; others are refused."""

import importlib

import pytest

from common.errors import UserError
from common.inputs import Input
from common.stages import CONTROLS, RIVALS
from reproduction.documents import MARKS, REPOSITORY, Step, asked_for, read_document, read_steps
from reproduction.plan import RUN_PER_SEED, Place, needs, next_run, plan
from tests.small_pipeline import step


def test_from_and_to_take_names_and_numbers(pipeline):
    pipeline.run("--root", "demo", "--from", "2", "--to", "score-val")
    assert [line.split()[0] for line in pipeline.ran()] == ["train.stage1", "train.score"]


def test_an_unknown_step_is_refused_with_the_names_that_are_near(pipeline):
    error = pipeline.run("--from", "stage11", status=2).err
    assert "--from stage11" in error and "Did you mean stage1?" in error and "score-val, score-test" in error
    assert "--to 9: no such step" in pipeline.run("--to", "9", status=2).err


def test_from_behind_to_is_refused(pipeline):
    assert "nothing to run" in pipeline.run("--from", "4", "--to", "2", status=2).err


def test_a_step_has_one_number_with_and_without_controls(pipeline):
    assert all("[4/5] score-val" in pipeline.run("--list", *flags).out for flags in ([], ["--controls"]))
    assert "control is a control. Give --controls as well" in pipeline.run("--from", "3", status=2).err


def test_a_module_used_twice_gives_two_names(pipeline):
    assert [s.name for s in read_steps(pipeline.folder)] == [
        "split", "stage1", "control", "score-val", "score-test",
    ]  # fmt: skip


def test_the_same_command_twice_is_refused(pipeline):
    pipeline.document("REPRODUCE_DATA.md", *(step(n, "Split", "python -m prep.split") for n in (1, 2)))
    with pytest.raises(UserError, match="2 steps have the same command"):
        read_steps(pipeline.folder)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (step(1, "A", "python -m prep.split") + step(3, "B", "python -m prep.split"), "found step 3, expected step 2"),
        (step(2, "A", "python -m prep.split"), "found step 2, expected step 1"),
        ("```bash\npython -m prep.split\n```\n", "bash block outside the numbered steps"),
        (step(1, "A", "python -m prep.split") + "## Notes\n```bash\npython -m prep.split\n```\n", "outside the"),
        (step(1, "A", "python -m prep.split") + "```bash\npython -m prep.split\n```\n", "second bash block"),
        ("## 1. A\n\nNothing.\n\n" + step(2, "B", "python -m prep.split"), r"step 1 \(A\) has no bash block"),
        ("## 1. A\n\nNothing.\n", r"step 1 \(A\) has no bash block"),
        (step(1, "A", "python -m prep.split\npython -m train.score"), "holds one command"),
        (step(1, "A", "python -m prep.split > out.txt"), "without other shell syntax"),
        (step(1, "A", "torchrun -m prep.split"), "of the form python -m"),
        (step(1, "A", "python -m prep.split --name 'open"), "REPRODUCE_DATA.md: .*'open"),
        (step(1, "A", "python -m prep.spilt"), r"step 1 \(A\): there is no module prep.spilt"),
        ("## 1. A\n```bash\npython -m prep.split\n", "never closed"),
        ("Nothing to do.\n", "there is no numbered step"),
    ],
)
def test_a_document_of_another_form_is_refused(pipeline, document, message):
    pipeline.document("REPRODUCE_DATA.md", document)
    with pytest.raises(UserError, match=message):
        read_steps(pipeline.folder)


def test_a_script_that_cannot_be_imported_is_named_with_its_step(pipeline):
    (pipeline.folder / "prep" / "split.py").write_text("import no_such_package\n")
    error = pipeline.run("--root", "demo", status=2).err
    assert "REPRODUCE_DATA.md, step 1 (Split)" in error and "No module named 'no_such_package'" in error


def test_a_step_has_the_mark_of_its_title():
    titles = {"A": None, "A (control)": "control", "A (rival)": "rival", "A (rival) again": None, "A (map)": "map"}
    assert {title: Step("REPRODUCE_TRAINING.md", 1, title).mark for title in titles} == titles
    assert MARKS == {"control": "--controls", "rival": "--rivals", "map": "--map"}


def test_the_steps_of_controls_and_rivals_are_marked_in_their_order():
    steps = read_document(REPOSITORY, "REPRODUCE_TRAINING.md")
    for mark, arms in (("control", CONTROLS), ("rival", RIVALS)):
        assert [one.module for one in steps if one.mark == mark] == [f"training.train_{arm.name}" for arm in arms]
    for marks in ((), ("control",), ("rival",), ("control", "rival")):
        assert {one.mark for one in asked_for(steps, marks)} == {None, *marks}


def test_each_training_says_that_it_builds_on_the_steps_whose_files_it_takes():
    """Of the default paths of its flags those below model_weights/ and artifacts/seed, which other trainings write."""
    steps = read_document(REPOSITORY, "REPRODUCE_TRAINING.md")
    made_by, takes = {}, {}
    for one in steps:
        args = vars(importlib.import_module(one.module).parse_args([]))
        output = args.get("out_dir") or args["out"]
        made_by[output] = one.number
        takes[one.number] = [source.path for source in args.values() if isinstance(source, Input)]
    used = {
        number: {made_by[out] for path in paths for out in made_by if out == path or out in path.parents}
        for number, paths in takes.items()
    }
    assert used[9] == {1, 4, 7} and used[4] == {3}
    for one in steps:
        assert used[one.number] <= one.builds_on, one
        direct = used[one.number].union(*(steps[n - 1].builds_on for n in used[one.number]))
        assert one.builds_on == direct, one


def training_steps(pipeline, *lines: str) -> list[Step]:
    """The steps of a training document, whose modules are train.part1 and so on, each with one of ``lines``."""
    parts = []
    for n, line in enumerate(lines, 1):
        pipeline.module(f"train.part{n}")
        parts.append(f"{step(n, f'Part {n}', f'python -m train.part{n}')}\n{line}\n")
    pipeline.document("REPRODUCE_TRAINING.md", *parts)
    return [one for one in read_steps(pipeline.folder) if one.document == RUN_PER_SEED]


def test_a_step_waits_for_what_it_says_it_needs_and_for_what_that_needs(pipeline):
    lines = (
        "- Needs: `data/train` of `prep.split`.",
        "",
        "- Needs: the tiles, and `part2.pt`.",
        "- Needs: the table of `train.part3`.\n- Writes: what `train.part2` does not.",
        "- Needs: the weights of `train.part1`,\n  and of `train.part4`.",
    )
    steps = training_steps(pipeline, *lines)
    assert [one.builds_on for one in steps] == [set(), None, set(), {3}, {1, 3, 4}]
    runs = plan(steps, ["1"])
    needed = [[other.step.number for other in runs if needs(run.step, run.place, other)] for run in runs]
    assert needed == [[], [1], [], [3], [1, 3, 4]]
    assert not needs(steps[4], Place("", "2"), runs[3])
    first = next_run(runs, [], 2)
    assert first.step.number == 1 and next_run(runs[1:], [first], 2).step.number == 3


def test_a_step_that_needs_a_module_run_twice_waits_for_both(pipeline):
    pipeline.document(
        "REPRODUCE_EVALUATION.md",
        step(1, "Validation", "python -m train.score --split val"),
        step(2, "Test", "python -m train.score --split test"),
        step(3, "Rank", "python -m train.stage1") + "\n- Needs: the results of `train.score`.\n",
    )
    assert read_steps(pipeline.folder)[-1].builds_on == {1, 2}


@pytest.mark.parametrize("module", ["train.part2", "train.part3", "train.teacher"])
def test_a_step_that_needs_itself_a_later_step_or_none_is_refused(pipeline, module):
    line = f"- Needs: `{module}`."
    with pytest.raises(UserError, match=f"REPRODUCE_TRAINING.md: line [0-9]+: found '{line}'; no earlier step"):
        training_steps(pipeline, "", line, "")
