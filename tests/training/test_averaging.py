import pytest
import torch
from torch import nn

from common.device import place
from common.inference import predict_logits
from training.engine.averaging import AveragedNetwork

CPU = torch.device("cpu")


class Scripted(nn.Module):
    """A weight, a statistic and a counter that a test sets."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([100.0, 100.0]))
        self.register_buffer("statistic", torch.tensor(100.0))
        self.register_buffer("counter", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))

    @torch.no_grad()
    def put(self, value):
        self.weight.copy_(torch.tensor([value, -value]))
        self.statistic.fill_(2 * value)
        self.counter.fill_(int(value))
        self.flag.fill_(value > 3)


def averaged(values, horizon):
    model = Scripted()
    average = AveragedNetwork(model, horizon)
    for step, value in enumerate(values, start=1):
        model.put(value)
        average.update(step)
    return model, average


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_the_average_is_that_of_the_weights_with_a_decay_of_one_by_the_horizon(count):
    values = [float(n % 7) + n / 10 for n in range(1, count + 1)]
    model, average = averaged(values, 4)
    decays = [0.75 ** (count - n) for n in range(1, count + 1)]
    wanted = sum(d * v for d, v in zip(decays, values, strict=True)) / sum(decays)
    found = average.network
    assert found.weight.tolist() == pytest.approx([wanted, -wanted], rel=1e-5)
    assert found.statistic.item() == pytest.approx(2 * wanted, rel=1e-5)
    assert found.counter.item() == int(values[-1]) and found.flag.item() == (values[-1] > 3)
    assert model.weight.tolist() == pytest.approx([values[-1], -values[-1]])


def test_the_weights_of_before_the_first_step_count_for_nothing():
    _, average = averaged([7.0], 1000)
    assert average.network.weight.tolist() == [7.0, -7.0]


def test_the_average_is_not_trained_and_always_in_eval_mode():
    model, average = averaged([1.0], 10)
    model.train()
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_weights_that_are_laid_out_anew_at_each_placing_are_followed_all_the_same():
    """torch copies a weight of shape (K, 1, 1, 1) whenever it is asked for channels last."""
    model = place(nn.Conv2d(4, 4, 1, groups=4), CPU)
    average = AveragedNetwork(model, 4)
    with torch.no_grad():
        for step in (1, 2, 3):
            model.weight.fill_(step)
            average.update(step)
            predict_logits(average.network, torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
    wanted = (0.75**2 * 1 + 0.75 * 2 + 3) / (0.75**2 + 0.75 + 1)
    torch.testing.assert_close(average.network.weight, torch.full((4, 1, 1, 1), wanted))


def test_weights_under_two_names_are_averaged_once():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    model[1].weight = model[0].weight
    average = AveragedNetwork(model, 2)
    with torch.no_grad():
        for step in (1, 2):
            model[0].weight.fill_(step)
            average.update(step)
    torch.testing.assert_close(average.network[1].weight, torch.full((2, 2), (0.5 * 1 + 2) / 1.5))


@pytest.mark.parametrize("horizon", [0, 0.5, 1])
def test_over_a_step_or_less_the_average_is_the_network_itself(horizon):
    model, average = averaged([1.0, 2.0], horizon)
    assert average.network is model
