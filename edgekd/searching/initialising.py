"""Fresh weights, the same on every machine for the same seed, whatever the network did before."""

from typing import Literal, assert_never

import torch
from torch import nn

Initialisation = Literal["kaiming", "gaussian"]


def initialise(network: nn.Module, kind: Initialisation, *, seed: int) -> None:
    """Draw every convolution and linear layer anew, in the network's own order; batch norms start from 1 and 0.

    `kaiming` draws from N(0, 2 / fan_in), `gaussian` from N(0, 1) as Zen-NAS and the released DisWOT code do; biases are 0.
    """
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                match kind:
                    case "kaiming":
                        module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=dice)
                    case "gaussian":
                        module.weight.normal_(0, 1, generator=dice)
                    case _:
                        assert_never(kind)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.fill_(1)
                module.bias.zero_()
