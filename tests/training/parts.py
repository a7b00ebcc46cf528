"""The parts of a recipe for tests of the loop: a small network and a loss whose values are known."""

import torch
from torch import nn

from common.checkpoints import digest_tensors
from common.encoders import EncoderConstants
from common.losses import HardLoss, LossTerm
from common.models import SilenceVoid


class SmallNetwork(nn.Module):
    """Two convolutions, dropout between them; keeps what it sees while it trains."""

    def __init__(self, num_classes=6):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 1)
        EncoderConstants().install(self.encoder)
        self.drop = nn.Dropout2d(0.5)
        self.head = nn.Sequential(nn.Conv2d(4, num_classes, 1), SilenceVoid())
        self.seen, self.modes, self.draws = [], [], []

    def forward(self, images):
        self.modes.append(self.training)
        if self.training:
            self.seen.append(images.clone())
            self.draws.append(torch.get_rng_state().sum().item())
        return self.head(self.drop(self.encoder(images)))


class Start:
    """The weights of a SmallNetwork, as the seed gives them; keeps the networks it made."""

    def __init__(self, ancestors=(), name="random"):
        self.ancestors, self.name = ancestors, name
        self.built, self.digests = [], []

    def build(self, architecture, taxonomy, bands=None):
        self.built.append(SmallNetwork(taxonomy.num_classes))
        self.digests.append(digest_tensors(self.built[-1].state_dict()))
        return self.built[-1]

    def describe(self):
        return {"kind": self.name}


class Counting:
    """A loss whose value at the n-th step is n, of which the gradient is that of the hard loss times ``scale``."""

    def __init__(self, scale=1.0):
        self.scale, self.steps = scale, -1  # the trial before the first step counts as none

    def to(self, device):
        return self

    def terms(self, logits, batch):
        self.steps += 1
        (term,) = HardLoss().terms(logits, batch)
        value = self.scale * term.total / term.count
        first = LossTerm("a", 3 * (value - value.detach() + self.steps), torch.tensor(3.0), 0.25)
        return [first, LossTerm("b", torch.tensor(5.0 * self.steps), torch.tensor(5.0), 0.75)]

    def describe(self):
        return {"counting": self.scale}
