"""The average of a network's weights over the last part of its training: what a run validates and saves."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedNetwork:
    """An exponential moving average of a network's weights and of its statistics of batch normalisation.

    After n updates with the weights w_1 … w_n it is Σ β^(n−i) w_i / Σ β^(n−i), so that the weights a run starts from do
    not count. torch's AveragedModel divides by no such sum, and fails on buffers that are not floats.

    Args:
        model: the network that is trained, on its device.
        horizon: optimizer steps over which it averages, 1 / (1 − β); up to 1 the average is ``model`` itself.
    """

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self.decay = 1 - 1 / horizon if horizon > 1 else 0.0
        self._network = copy.deepcopy(model).requires_grad_(False).eval() if self.decay else model
        state = zip(self._network.state_dict().values(), model.state_dict().values(), strict=True)
        pairs = list({average.data_ptr(): (average, weight) for average, weight in state}.values())  # tied ones once
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimizer step ``step``, counted from 1. Call this after every step."""
        if not self.decay:
            return
        weight = (1 - self.decay) / (1 - self.decay**step)
        averages, weights = zip(*self._averaged, strict=True)
        get_ema_multi_avg_fn(1 - weight)(averages, weights, None)

    @property
    def network(self) -> nn.Module:
        """The averaged network, in eval mode; ``model`` itself if nothing is averaged."""
        if self.decay:
            for counter, current in self._counters:
                counter.copy_(current)
        return self._network
