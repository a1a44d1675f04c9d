"""Student and teachers in one common space."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.distilling.losses import MMD_SIGMAS, feature_mse, mmd
from edgekd.distilling.methods._amalgamation import AmalgamationMethod, two_layers
from edgekd.distilling.methods._logits import Weight

Positive = Annotated[float, Field(gt=0)]


class Amalgamation(AmalgamationMethod):
    """Teachers of any kind and the student in a common space: MMD and reconstruction (CFL, 2019).

    Common feature learning, Luo et al. 2019: `logits_weight` KL of the logits + `mmd_weight` sum_i MMD^2(h_S, h_Ti) +
    `reconstruction_weight` sum_i |decoded h_Ti - f_Ti|^2 (mean over a teacher's channels). An aligner for each (linear, ReLU)
    leads to `width` numbers, by default a quarter of the student's; a shared extractor of two residual blocks makes h of them;
    decoders lead from h_Ti back. `sigmas` are the kernels' widths. All of it is left behind after training.

    Ours: vectors instead of maps, standardised teacher features, and the loop's optimiser for aligners, extractor and decoders
    (`train.criterion_lr`), which have one of their own in the authors' code.
    """

    mmd_weight: Weight = 1.0
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1)] = MMD_SIGMAS

    def amalgam(self, width_s: int, widths_t: tuple[int, ...]) -> nn.Module:
        """Return aligners, extractor and decoders."""
        return _CommonSpace(self, width_s, widths_t)


class _CommonSpace(nn.Module):
    def __init__(self, method: Amalgamation, width_s: int, widths_t: tuple[int, ...]) -> None:
        super().__init__()
        width = method.width or max(8, width_s // 4)
        self.method = method
        self.own = _aligner(width_s, width)
        self.aligners = nn.ModuleList(_aligner(width_t, width) for width_t in widths_t)
        self.extractor = nn.Sequential(_Residual(width), _Residual(width))
        self.decoders = nn.ModuleList(two_layers(width, width, width_t) for width_t in widths_t)

    def forward(self, student_BD: Tensor, taught: tuple[Tensor, ...]) -> dict[str, tuple[float, Tensor]]:
        method = self.method
        own_BH = self.extractor(self.own(student_BD))
        common = [self.extractor(aligner(teacher_BD)) for aligner, teacher_BD in zip(self.aligners, taught, strict=True)]
        apart = [mmd(own_BH, common_BH, sigmas=method.sigmas) for common_BH in common]
        rebuilt = zip(self.decoders, common, taught, strict=True)
        errors = [feature_mse(decoder(common_BH), teacher_BD) for decoder, common_BH, teacher_BD in rebuilt]
        return {
            "mmd": (method.mmd_weight, torch.stack(apart).sum()),
            "reconstruction": (method.reconstruction_weight, torch.stack(errors).sum()),
        }


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = two_layers(width, width, width)

    def forward(self, x_BD: Tensor) -> Tensor:
        found_BD: Tensor = torch.relu(x_BD + self.branch(x_BD))
        return found_BD


def _aligner(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.ReLU())
