"""Teachers' features packed into one, which the student learns."""

import torch
from torch import Tensor, nn

from edgekd.distilling.losses import feature_mse
from edgekd.distilling.methods._amalgamation import AmalgamationMethod
from edgekd.distilling.methods._logits import Weight


class LayerwiseAmalgamation(AmalgamationMethod):
    """All teachers' features encoded into one representation that the student meets (Shen et al. 2019).

    `logits_weight` KL of the logits + `feature_weight` |adaptor(f_S) - rep|^2 + `reconstruction_weight` |decoded rep - f_T|^2,
    with rep = encoder(all f_Ti, one after the other), `width` wide, by default as the student's tap. The representation learns
    from the reconstruction alone. Encoder, decoder and adaptor are linear, as the authors' 1 x 1 convolutions, and are left
    behind. Ours: vectors of one layer instead of maps of several, and standardised teacher features.
    """

    feature_weight: Weight = 1.0

    def amalgam(self, width_s: int, widths_t: tuple[int, ...]) -> nn.Module:
        """Return encoder, decoder and adaptor."""
        return _Packed(self, width_s, widths_t)


class _Packed(nn.Module):
    def __init__(self, method: LayerwiseAmalgamation, width_s: int, widths_t: tuple[int, ...]) -> None:
        super().__init__()
        width = method.width or width_s
        self.method = method
        self.encoder = nn.Linear(sum(widths_t), width)
        self.decoder = nn.Linear(width, sum(widths_t))
        self.adaptor = nn.Linear(width_s, width)

    def forward(self, student_BD: Tensor, taught: tuple[Tensor, ...]) -> dict[str, tuple[float, Tensor]]:
        every_BD = torch.cat(taught, dim=1)
        rep_BD = self.encoder(every_BD)
        return {
            "feature": (self.method.feature_weight, feature_mse(self.adaptor(student_BD), rep_BD)),
            "reconstruction": (self.method.reconstruction_weight, feature_mse(self.decoder(rep_BD), every_BD)),
        }
