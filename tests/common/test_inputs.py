import os
from pathlib import Path

import pytest

from common.cli import Parser
from common.inputs import REPLACES_UNASKED, Command, Input
from tests.helpers import doors


def parsed(*argv, default="artifacts/seed{seed}/a.tsv", made_by="training.score_difficulty"):
    parser = Parser("")
    parser.add_input("--table", default, "a table", made_by=made_by)
    parser.add_argument("--preset", default="paper")
    parser.add_seed()
    return parser.parse_args(argv).table


def test_an_input_hangs_from_the_root_and_knows_the_command_that_makes_it_there():
    table = parsed("--root", "my data", "--seed", "7")
    assert table.path == Path("my data/artifacts/seed7/a.tsv") and table.flag == "--table"
    assert str(table.made_by) == "python -m training.score_difficulty --root 'my data' --seed 7"
    assert str(parsed().made_by) == "python -m training.score_difficulty --seed 42"
    assert parsed("--table", "elsewhere.tsv", "--root", "r").path == Path("elsewhere.tsv")


def test_a_training_is_named_with_its_preset_and_a_step_without_a_seed_without_one():
    start = parsed("--preset", "demo", default="w/seed{seed}/last.pt", made_by="training.train_teacher")
    assert str(start.made_by) == "python -m training.train_teacher --preset demo --seed 42"
    assert (
        str(parsed(default="a.json", made_by="data_prep.check_leakage").made_by) == "python -m data_prep.check_leakage"
    )
    scores = parsed("--root", "r", default="val", made_by="evaluation.compute_metrics --split val")
    assert str(scores.made_by) == "python -m evaluation.compute_metrics --root r --split val"


def test_an_input_without_a_default_may_be_left_out():
    assert parsed(default=None) is None
    assert parsed("--table", "x", default=None).path == Path("x")


def test_what_lies_below_an_input_is_made_by_the_same_command(tmp_path):
    folder = Input(tmp_path, Command.of("data_prep.split_biodiversity", Path(".")), "--data-dir")
    assert folder / "val" == Input(tmp_path / "val", folder.made_by, "--data-dir")
    (tmp_path / "a.txt").write_text("text")
    assert os.stat(folder / "a.txt").st_size == 4 and str(folder) == str(tmp_path)


@pytest.mark.parametrize(("module", "verb"), [("data_prep.x", "Write"), ("training.train_x", "Train")])
def test_the_remedy_is_worded_in_one_way(module, verb):
    source = Input(Path("a"), Command.of(module, Path("r")))
    assert str(source.missing()) == f"a does not exist. {verb} it first: python -m {module} --root r"
    assert str(source.missing("is empty")).startswith(f"a is empty. {verb} it first")
    again = f"python -m {module} --root r --overwrite"
    assert str(source.unusable("a is broken")) == f"a is broken. {verb} it again: {again}"
    assert str(source.unusable("a", "--share", "0.2")).endswith("--root r --share 0.2 --overwrite")


def test_a_command_is_repeated_with_one_flag_for_what_is_there():
    command = Command.read("python -m training.train_x --overwrite --root 'my root' --resume")
    assert str(command.resumed()) == "python -m training.train_x --root 'my root' --resume"
    assert str(command.again()) == "python -m training.train_x --root 'my root' --overwrite"
    assert Command.read(str(command)) == command


@pytest.mark.parametrize("name", doors())
def test_every_input_of_a_script_is_made_by_a_command_that_runs_for_the_root_in_use(name, tmp_path):
    root = tmp_path / "my root"
    inputs = [
        value for value in vars(doors()[name].parse_args(["--root", str(root)])).values() if isinstance(value, Input)
    ]
    for source in inputs:
        for command in (source.made_by, source.made_by.again()):
            python, _, module, *flags = command.words
            assert doors()[module].parse_args(flags).root == root, (source.flag, command)


def test_overwrite_is_asked_for_where_a_script_has_it_and_nowhere_else(capsys):
    parsed_args = [vars(script.parse_args([])) for script in doors().values()]
    inputs = [value for args in parsed_args for value in args.values() if isinstance(value, Input)]
    for name in {source.made_by.words[2] for source in inputs} | REPLACES_UNASKED:
        with pytest.raises(SystemExit):
            doors()[name].parse_args(["--help"])
        assert ("--overwrite" in capsys.readouterr().out) == (name not in REPLACES_UNASKED), name
