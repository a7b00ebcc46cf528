import copy
from types import SimpleNamespace

import torch
from torch import nn

from common.device import place
from training.engine.averaging import AveragedNetwork
from training.engine.run_folder import TrainingState


def test_moments_of_another_layout_are_laid_out_as_the_weights(tmp_path):
    """As of a run that was begun on a GPU, or before networks were laid out with channels last."""
    images = torch.rand(2, 3, 8, 8)

    def state_of(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        parts = [SimpleNamespace(state=dict, load=lambda state: None) for _ in range(2)]
        return TrainingState(model, AveragedNetwork(model, 4), optimizer, schedule, *parts)

    def step(state):
        state.model(images).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()

    torch.manual_seed(0)
    begun = state_of(nn.Conv2d(3, 4, 3))
    step(begun)
    saved = SimpleNamespace(training=copy.deepcopy(begun.to_save()), state=begun.model.state_dict())
    resumed = state_of(place(nn.Conv2d(3, 4, 3), torch.device("cpu")))
    resumed.load(saved)
    for state in (begun, resumed):
        step(state)
    torch.testing.assert_close(resumed.model.weight, begun.model.weight)
