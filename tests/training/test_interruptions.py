import signal
from types import SimpleNamespace

import pytest
import torch

from common.device import Processes
from common.errors import UserError
from common.inputs import Command
from training.engine.interruptions import StopSignals, failures_told

CPU = torch.device("cpu")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP = SimpleNamespace(describe=lambda: "step 3")
RUN = Command.read("python -m training.train_x")


@pytest.fixture
def handlers():
    """The handlers of the three signals, put back at the end."""
    before = {ending: signal.getsignal(ending) for ending in ENDINGS}
    yield before
    for ending, handler in before.items():
        signal.signal(ending, handler)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_signal_stops_the_run_after_its_step_and_is_its_exit_status(handlers, ending):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with StopSignals(Processes(CPU), CPU) as signals:
        assert not signals.ask(together=True)
        signal.raise_signal(ending)
        assert signals.ask(together=False) and signals.exit_status == 128 + ending


def test_after_a_training_signals_do_what_they_did_before(handlers):
    noted = []
    for ending in ENDINGS:
        signal.signal(ending, lambda number, _: noted.append(number))
    with StopSignals(Processes(CPU), CPU):
        signal.raise_signal(signal.SIGTERM)
    for ending in ENDINGS:
        signal.raise_signal(ending)
    assert noted == list(ENDINGS)


def test_a_run_under_nohup_outlives_its_terminal(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(Processes(CPU), CPU) as signals:
        signal.raise_signal(signal.SIGHUP)
        assert not signals.ask(together=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_several_processes_stop_together_where_one_of_them_caught_a_signal(handlers):
    answers = []
    processes = SimpleNamespace(world=2, agree=lambda answer, device: answers.append(answer) or True)
    with StopSignals(processes, CPU) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert not signals.ask(together=False) and answers == []  # a step at which the others do not ask
        assert signals.ask(together=True) and answers == [True]
    with StopSignals(processes, CPU) as signals:
        assert signals.ask(together=True) and answers == [True, False]
        assert signals.exit_status == 128 + signal.SIGTERM  # another one caught it


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory does not suffice for --batch-size 4 and --crop-size 32"),
        (RuntimeError("CUDA out of memory. Tried"), "memory does not suffice"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "a loader process died"),
    ],
)
def test_what_failed_is_told_with_its_step_and_the_command_to_go_on(error, words, saved):
    go_on = RUN.resumed() if saved else RUN
    folder = SimpleNamespace(command_to_go_on=lambda: go_on, run=SimpleNamespace(command=RUN))
    settings = SimpleNamespace(batch_size=4, crop_size=32)
    with pytest.raises(UserError, match=f"{words}.*, at step 3. The last checkpoint is unchanged") as told:
        with failures_told(settings, STEP, folder):
            raise error
    assert str(told.value).endswith(f"Go on with: {go_on}")


def test_a_defect_keeps_its_own_words():
    with pytest.raises(RuntimeError, match="shapes differ"):
        with failures_told(SimpleNamespace(), STEP, SimpleNamespace()):
            raise RuntimeError("shapes differ")
