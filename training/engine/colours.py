"""The learning rate of the part of a first layer that sees red, green and blue, where it sees further bands as well.

What ImageNet taught of these three is moved carefully; a further band is learnt as fast as the decoder. Both are one
tensor, so that a checkpoint is that of any network of so many bands.
"""

import torch

from common.bands import RGB


class ColoursMoveLess:
    """Has a weight's part for the first three bands move ``ratio`` times as far in each step as its optimizer has it.

    A step of AdamW is in proportion to the learning rate, weight decay included, and its moments do not depend on it:
    this is a step at ``ratio`` times the rate for that part alone, to the rounding of its numbers.

    Args:
        weight: (O, B, h, w) of a convolution, with B above 3.
        ratio: 0 or more.
    """

    def __init__(self, weight: torch.Tensor, ratio: float) -> None:
        self.colours = weight.detach()[:, : len(RGB)]  # shares its memory
        self.ratio = ratio
        self.before = torch.empty_like(self.colours)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda *_: self._keep())
        optimizer.register_step_post_hook(lambda *_: self._pull_back())

    def _keep(self) -> None:
        self.before.copy_(self.colours)

    def _pull_back(self) -> None:
        self.colours.copy_(torch.lerp(self.before, self.colours, self.ratio))
