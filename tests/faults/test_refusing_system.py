"""Full disks, rights that lack, input that vanishes."""

import shutil
import sys

import pytest

from tests.faults.harness import changed_problem, snapshot
from tests.faults.killed_runs import RUN
from tests.faults.refusing_system import ERRORS, OVER, file_limit_problem, rights_problems, vanish_problems


@pytest.fixture(scope="module")
def root(trained, tmp_path_factory):
    """A copy of the trained root; a refused script leaves it as it is."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("refusing") / "root")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("module", "flags", "at"),
    [
        ("data_prep.check_biodiversity", ("--skip-suspicious",), 1),
        ("data_prep.split_biodiversity", ("--seed", "7", OVER), 40),
        ("data_prep.replicate_minority", ("--copies", "1", OVER), 9),
        ("training.train_stage1_baseline", (*RUN, OVER), 9),
        ("training.score_difficulty", ("--device", "cpu", OVER), 2),
        ("evaluation.compute_metrics", ("--device", "cpu", "--stages", "stage1_baseline"), 5),
    ],
)
def test_where_no_file_can_be_created_it_is_said_and_nothing_changes(script, root, module, flags, at, error):
    before = snapshot(root)
    arguments = ("tests.faults.fault", f"{error}@{at}", module, "--root", root, *flags)
    ended = script(*arguments, FAULT_BELOW=str(root))
    assert changed_problem(ended, root, before, ERRORS[error], str(root)) is None


def test_a_checkpoint_that_cannot_be_written_whole_replaces_none(script, root):
    assert file_limit_problem(script, root) is None


@pytest.mark.skipif(sys.platform != "linux", reason="rights are taken from this process as Linux does")
def test_what_may_not_be_written_or_read_is_named(script, root):
    assert [problem for _, problem in rights_problems(script, root) if problem] == []


def test_input_that_vanishes_is_named(script, root, tmp_path):
    assert [problem for _, problem in vanish_problems(script, root, tmp_path) if problem] == []
