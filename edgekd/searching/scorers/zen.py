"""How much an untrained network makes of a small change."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import map_of


class Zen(Scorer):
    """How much a small change of noise moves the features, scaled back through batch norm (Zen-NAS, 2021).

    log mean |f(x) - f(x + alpha e)| plus the sum of log deviations that the batch norms divide by, x and e Gaussian noise.
    `form: batch_norm` is the second term alone, over the real images. The authors start from `initialisation: gaussian`.
    """

    form: Literal["zen", "batch_norm"] = "zen"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01

    def value(self, look: Look) -> float:
        """Return the score, a logarithm."""
        if self.form == "batch_norm":
            return _log_sum(look.normal_deviations)
        dice = torch.Generator().manual_seed(0)
        noise_BCHW = torch.randn(look.image_BCHW.shape, generator=dice)
        other_BCHW = noise_BCHW + self.alpha * torch.randn(look.image_BCHW.shape, generator=dice)
        map_BCHW, deviations = map_of(look.module, noise_BCHW)
        moved = float((map_BCHW - map_of(look.module, other_BCHW)[0]).abs().double().sum(dim=(1, 2, 3)).mean())
        return math.log(max(moved, 1e-300)) + _log_sum(deviations)


def _log_sum(deviations: tuple[float, ...]) -> float:
    return sum(math.log(max(deviation, 1e-300)) for deviation in deviations)
