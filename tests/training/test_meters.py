import math
from types import SimpleNamespace

import pytest
import torch

from common.device import Processes
from common.errors import UserError
from common.losses import LossTerm
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from tests.helpers import made
from training.engine import meters
from training.engine.meters import DrawnCrops

CPU = torch.device("cpu")


def test_what_was_drawn_is_counted_by_class_and_by_tile(tmp_path):
    entries = {
        "a": {"pixels": [0, 4, 0, 0, 0, 0]},
        "a__rep1": {"pixels": [0, 4, 0, 0, 0, 0], "base": "a"},
        "b": {"pixels": [2, 0, 2, 0, 0, 0], "base": None},
    }
    tiles = TileSet(made(tmp_path), {"tiles": entries}, BIODIVERSITY)
    drawn = DrawnCrops(3, 6, Processes(CPU), CPU)
    drawn.add({"tile": torch.tensor([0, 1]), "pixels": torch.tensor([[1, 3, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]])})
    drawn.add({"tile": torch.tensor([1, 2]), "pixels": torch.tensor([[0, 1, 3, 0, 0, 0], [3, 0, 1, 0, 0, 0]])})
    found = drawn.summary(tiles)
    assert list(found["pixel_share"].values()) == pytest.approx([4 / 8, 4 / 8, 0, 0, 0])
    assert list(found["crops_with_class"].values()) == pytest.approx([2 / 4, 2 / 4, 0, 0, 0])
    assert list(found["pixel_share"]) == ["Forest", "Grassland", "Cropland", "Settlement", "Seminatural"]
    assert found["void_share"] == pytest.approx(8 / 16)
    assert found["distinct_tiles"] == 3 and found["replica_share"] == pytest.approx(2 / 4)


# Loss terms and their meter


class TwoAlike:
    """Two processes with the same terms."""

    world = 2

    @staticmethod
    def sum(tensor):
        return 2 * tensor


def test_the_gradient_of_several_processes_is_that_of_the_whole_batch():
    """With the same crops in both, the mean over processes of the gradient is that of one process alone."""
    weights = torch.tensor([2.0, 5.0], requires_grad=True)

    def terms():
        yield LossTerm("hard", weights[0] * 6, torch.tensor(3.0), 0.7)
        yield LossTerm("kd", weights[1] * 8, torch.tensor(2.0), 0.3)

    alone = meters.LossMeter(Processes(CPU)).add(list(terms()))
    assert alone.item() == pytest.approx(0.7 * 2 * 6 / 3 + 0.3 * 5 * 8 / 2)
    meter = meters.LossMeter(TwoAlike)
    shared = meter.add(list(terms()))
    assert shared.item() == pytest.approx(alone.item())  # half of the whole, times two: DDP takes the mean
    meter.add_gradient(torch.tensor(1.0))
    meter.read("x", SimpleNamespace(step=1))
    assert meter.means() == pytest.approx({"loss": alone.item(), "hard": 4.0, "kd": 20.0})


def test_a_term_that_counts_nothing_is_zero_and_not_nan():
    meter = meters.LossMeter(Processes(CPU))
    assert meter.add([LossTerm("hard", torch.tensor(0.0), torch.tensor(0.0), 1.0)]).item() == 0


@pytest.mark.parametrize(
    ("norm", "loss", "said"),
    [(1.0, math.nan, "the loss became nan at step 3"), (math.inf, 1.0, "norm of the gradient became inf at step 3")],
)
def test_the_first_step_that_is_not_finite_is_named(norm, loss, said):
    meter = meters.LossMeter(Processes(CPU))
    for value, gradient in ((1.0, 1.0), (loss, norm), (math.nan, math.nan)):
        meter.add([LossTerm("hard", torch.tensor(value), torch.tensor(1.0), 1.0)])
        meter.add_gradient(torch.tensor(gradient))
    with pytest.raises(UserError, match=said):
        meter.read("x", SimpleNamespace(step=4, name_step=lambda step: f"step {step}"))
