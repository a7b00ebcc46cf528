import pytest

from common.cli import UserError, loader_died, map_progress, run


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
    assert said.startswith("error: /data/a.tif: Permission denied. Give yourself the right to it, ")
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
