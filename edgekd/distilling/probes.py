"""What features are worth: linear probe and nearest neighbours on pooled features. N images, D width, K classes."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec, FrozenModel
from edgekd.core.errors import DataError

PROBE_TAP = "pooled"


class LinearProbe(nn.Module):
    """Multinomial logistic regression on standardised features, fitted to convergence by L-BFGS.

    The penalty is `l2` / 2 times the squared weights per image, as in the usual C = 1 / (N l2) of logistic regression.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @classmethod
    def fit(cls, feature_ND: Tensor, label_N: Tensor, *, classes: int, l2: float = 1e-2) -> Self:
        """Return the probe for these features; raise `DataError` unless at least two classes are seen."""
        if label_N.unique().numel() < 2:
            raise DataError("a linear probe needs labelled images of at least two classes")
        with torch.inference_mode(mode=False), torch.enable_grad():
            probe = cls(feature_ND.shape[1], classes).double()
            feature_ND = feature_ND.detach().cpu().double()
            label_N = label_N.cpu()
            probe.mean.copy_(feature_ND.mean(dim=0))
            probe.std.copy_(feature_ND.std(dim=0, unbiased=False).clamp(min=1e-6))
            nn.init.zeros_(probe.linear.weight)
            nn.init.zeros_(probe.linear.bias)
            optimiser = torch.optim.LBFGS(
                probe.linear.parameters(), max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
            )

            def closure() -> Tensor:
                optimiser.zero_grad()
                penalty = l2 / 2 * probe.linear.weight.square().sum()
                loss = functional.cross_entropy(probe(feature_ND), label_N) + penalty
                loss.backward()
                return loss

            optimiser.step(closure)
        return probe.float().requires_grad_(False)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return (weight_KD, bias_K) of the linear layer that gives the same logits on features as they are."""
        weight_KD = self.linear.weight / self.std
        return weight_KD, self.linear.bias - weight_KD @ self.mean

    def forward(self, feature_BD: Tensor) -> Tensor:
        """Return logits_BK."""
        logits: Tensor = self.linear((feature_BD - self.mean) / self.std)
        return logits


class ProbedTeacher:
    """A frozen teacher with one more tap, `probe_logits`: a linear probe on its pooled features."""

    def __init__(self, teacher: FrozenModel, probe: LinearProbe) -> None:
        self._teacher = teacher
        self.probe = probe
        self.name = teacher.name
        self.licence = teacher.licence
        self.weights_sha256 = teacher.weights_sha256
        self.size_px = teacher.size_px
        self.parameters = teacher.parameters
        self.precision = teacher.precision

    def to(self, device: torch.device) -> Self:
        """Move teacher and probe and return self."""
        self._teacher.to(device)
        self.probe.to(device)
        return self

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of these taps."""
        below = self._teacher.spec(self._below(taps))
        shapes = {**below.shapes, "probe_logits": (self.probe.linear.out_features,)}
        return FeatureSpec(name=self.name, shapes={tap: shapes[tap] for tap in taps}, classes=below.classes)

    @torch.no_grad()
    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features in float32."""
        found = self._teacher.features(image_BCHW, self._below(taps))
        if "probe_logits" in taps:
            found["probe_logits"] = self.probe(found[PROBE_TAP])
        return {tap: found[tap] for tap in taps}

    def _below(self, taps: tuple[str, ...]) -> tuple[str, ...]:
        own = tuple(tap for tap in taps if tap != "probe_logits")
        return own if "probe_logits" not in taps or PROBE_TAP in own else (*own, PROBE_TAP)


def knn_top1(
    train_ND: Tensor, train_label_N: Tensor, test_MD: Tensor, test_label_M: Tensor, *, k: int = 20, temperature: float = 0.07
) -> float:
    """Return the share right of a weighted k-nearest-neighbour vote by cosine (Wu et al. 2018; DINO's protocol).

    `k` is capped at the number of training images; votes weigh exp(cosine / temperature).
    """
    classes = int(max(train_label_N.max(), test_label_M.max())) + 1
    train_ND = functional.normalize(train_ND.float(), dim=1)
    test_MD = functional.normalize(test_MD.float(), dim=1)
    right = 0
    for chunk_BD, label_B in zip(test_MD.split(1024), test_label_M.split(1024), strict=True):
        cosine_Bk, index_Bk = (chunk_BD @ train_ND.T).topk(min(k, len(train_ND)), dim=1)
        votes_BK = torch.zeros(len(chunk_BD), classes)
        votes_BK.scatter_add_(1, train_label_N[index_Bk], (cosine_Bk / temperature).exp())
        right += int((votes_BK.argmax(dim=1) == label_B).sum())
    return right / len(test_MD)
