"""What every deployed student is: a model that normalises for itself."""

import torch
from torch import Tensor, nn


class Deployable(nn.Module):
    """Images in [0, 1] -> logits_BK: the normalisation and the model, and nothing else."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean.detach().clone().float().cpu())
        self.register_buffer("std", std.detach().clone().float().cpu())

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits_BK."""
        logits = self.model((image_BCHW - self.mean) / self.std)
        assert isinstance(logits, torch.Tensor)
        return logits
