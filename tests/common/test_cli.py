from pathlib import Path

import pytest

from common.cli import (
    Parser,
    fraction,
    map_progress,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    run,
)
from common.errors import UserError, loader_died


def status(error):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code


def test_bad_input_is_one_message_and_status_2(capsys):
    assert status(UserError("a.tif: too small")) == 2
    assert capsys.readouterr().err == "error: a.tif: too small\n"


def test_a_file_that_cannot_be_opened_is_one_message_and_status_2(capsys):
    assert status(PermissionError(13, "Permission denied", "/data/a.tif")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /data/a.tif: Permission denied. Check the permissions, ")
    assert said.count("\n") == 1


def test_an_error_of_a_loader_process_is_none_of_its_death():
    assert loader_died(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
    told = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    assert not loader_died(RuntimeError(told))


def test_an_interruption_is_status_130(capsys):
    assert status(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_defect_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)


def refuse_three(number):
    if number == 3:
        raise UserError("tile 3 is damaged")
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_the_message_of_a_failing_tile_comes_through_from_any_process(workers):
    with pytest.raises(UserError, match="tile 3 is damaged"):
        list(map_progress(refuse_three, range(5), workers=workers, desc="Reading"))


def flags(*argv):
    parser = Parser("what it does")
    parser.add_path("--table", "artifacts/seed{seed}/table.tsv", "a table")
    parser.add_seed()
    parser.add_workers()
    parser.add_device()
    parser.add_overwrite()
    parser.add_argument("--share", type=fraction)
    parser.add_argument("--count", type=positive_int)
    parser.add_argument("--start", type=non_negative_int)
    parser.add_argument("--rate", type=positive_float)
    parser.add_argument("--decay", type=non_negative_float)
    return parser.parse_args([str(word) for word in argv])


def test_flags_have_the_defaults_of_the_documents():
    args = flags()
    assert (args.root, args.seed, args.workers, args.device, args.overwrite) == (Path("."), 42, 0, "auto", False)


def test_default_paths_hang_from_the_root_and_the_seed_and_a_given_path_stands_as_it_is():
    assert flags().table == Path("artifacts/seed42/table.tsv")
    assert flags("--root", "demo", "--seed", 7).table == Path("demo/artifacts/seed7/table.tsv")
    assert flags("--root", "demo", "--table", "other.tsv").table == Path("other.tsv")


@pytest.mark.parametrize(
    ("flag", "accepted", "refused"),
    [
        ("--share", ["0", "0.5", "1"], ["-0.01", "1.01", "nan", "x"]),
        ("--count", ["1", "7"], ["0", "-1", "1.5"]),
        ("--start", ["0", "7"], ["-1", "0.5"]),
        ("--rate", ["1e-9", "3"], ["0", "-1", "inf", "nan"]),
        ("--decay", ["0", "3"], ["-1e-9", "inf", "nan"]),
        ("--seed", ["0", "43"], ["-1", "1.5"]),
        ("--workers", ["0", "2"], ["-1", "100000"]),
    ],
)
def test_numbers_are_taken_up_to_their_bounds_and_not_beyond(flag, accepted, refused, capsys):
    for text in accepted:
        assert getattr(flags(f"{flag}={text}"), flag[2:]) == float(text)
    for text in refused:
        with pytest.raises(SystemExit):
            flags(f"{flag}={text}")
        assert f"{flag}: '{text}' is not" in capsys.readouterr().err


def test_the_own_command_is_recorded_as_it_was_typed():
    assert flags("--root", "my data", "--seed", 7).command.endswith("--root 'my data' --seed 7")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(map_progress(abs, range(-9, 9), workers=workers, desc="Counting")) == [abs(n) for n in range(-9, 9)]
