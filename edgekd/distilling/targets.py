"""What a student is taught: a teacher's features, brought to the student's width.

Axes: N rows that statistics are fitted on, B batch, D the teacher's width, K the target's width (the student's).
Statistics are fitted in float64; targets are computed in the features' own type, at least float32, also under autocast.
"""

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.errors import UsageError
from edgekd.distilling.basis import CHUNK_ROWS, Basis, Covariance, check_rank, refuse_widening
from edgekd.distilling.precision import full_precision, in_float64
from edgekd.distilling.rotation import equalising_rotation

Gathered = Literal["raw", "select", "interpolate", "standardise"]
Projected = Literal["svd", "svd_std", "svd_std_sorted", "svd_pts", "whiten", "phi_s"]
Kind = Gathered | Projected

_DEAD = 1e-6

__all__ = [
    "Basis",
    "Covariance",
    "Kind",
    "Target",
    "auto_temperature",
    "check_rank",
    "fit_target",
    "greatest_variance",
    "matched_deviations",
    "nearest_channels",
    "phi_s",
    "pts",
    "standardise",
]


@full_precision
def pts(features_BD: Tensor, *, temperature: float | Tensor, exponent: float) -> Tensor:
    """Return sign(g) |g / T|^(1/n), element by element: T the temperature, n the exponent (KDEP, He et al. 2022, PTS).

    T only sets the scale: PTS(g; T, n) = T^(-1/n) PTS(g; 1, n). Not for the student's side: its slope at 0 is infinite.
    """
    _refuse_not_positive(temperature=temperature, exponent=exponent)
    return features_BD.sign() * (features_BD / temperature).abs().pow(1 / exponent)


@full_precision
def auto_temperature(features_BD: Tensor, *, exponent: float) -> Tensor:
    """Return the T (0-d) at which the mean square of `pts` over these features is 1: (mean |g|^(2/n))^(n/2).

    Ours: the authors give T by hand. Raises `UsageError` if all features are 0.
    """
    _refuse_not_positive(exponent=exponent)
    mean = in_float64(features_BD).abs().pow(2 / exponent).mean()
    if not bool(mean > 0):
        raise UsageError("no temperature gives these targets a variance of 1: they are all 0", mend="give the temperature")
    return mean.pow(exponent / 2).to(features_BD)


@full_precision
def standardise(features_BD: Tensor, mean_D: Tensor | None = None, std_D: Tensor | None = None) -> Tensor:
    """Return features with zero mean and unit variance a channel, given the training set's statistics.

    Without them the rows' own are taken (deviation over N). A channel that hardly varies (deviation below 1e-6 of the
    largest) becomes 0, not noise.
    """
    if mean_D is None or std_D is None:
        own_mean_D, own_std_D = (statistic.to(features_BD) for statistic in _channel_statistics(features_BD))
        mean_D = own_mean_D if mean_D is None else mean_D
        std_D = own_std_D if std_D is None else std_D
    return (features_BD - mean_D) * _inverse_of_alive(std_D)


@full_precision
def phi_s(features_BD: Tensor, *, basis: Basis | None = None) -> Tensor:
    """Return phi H V^T (f - mean): rotated so that all channels vary equally, one common scale (PHI-S, Ranzinger 2024).

    V are the basis's directions (without one: all of the rows' own), H `equalising_rotation`, phi = 1 / sqrt(mean lambda).
    """
    basis = basis or Basis.fit(features_BD, dim=features_BD.shape[1])
    rotation_KK = equalising_rotation(basis.eigenvalues).to(features_BD)
    return basis.project(features_BD) @ rotation_KK.T * _common_scale(basis.eigenvalues).to(features_BD)


def greatest_variance(features_ND: Tensor, *, dim: int) -> Tensor:
    """Return the indices of the `dim` channels that vary most, greatest first; raise `UsageError` if there are fewer."""
    refuse_widening("target select", width=features_ND.shape[1], dim=dim)
    _, std_D = _channel_statistics(features_ND)
    return std_D.argsort(descending=True, stable=True)[:dim].to(features_ND.device)


def nearest_channels(width: int, *, dim: int) -> Tensor:
    """Return for each of `dim` channels the one of `width` that torch's nearest 1-D interpolation takes."""
    line_11D = torch.arange(width, dtype=torch.float64).view(1, 1, -1)
    return functional.interpolate(line_11D, size=dim, mode="nearest").view(-1).long()


def matched_deviations(singular_values_K: Tensor, *, ratio: float) -> Tensor:
    """Return deviations linear in S that run from `ratio` down to 1 (KDEP's code, standard deviation match, method 1).

    (S_1 - R S_K + (R - 1) S_k) / (S_1 - S_K); all 1 where the singular values are equal.
    """
    first, last = singular_values_K[0], singular_values_K[-1]
    if not bool(first > last):
        return torch.ones_like(singular_values_K)
    return (first - ratio * last + (ratio - 1) * singular_values_K) / (first - last)


class Target(nn.Module):
    """One alignment of a teacher's features to a student's width: fitted once, then called on features B x D -> B x K.

    | kind | target |
    |---|---|
    | raw | the features (K = D) |
    | select | the K channels of greatest variance |
    | interpolate | the channels as a signal, resized to K, nearest |
    | standardise | zero mean, unit variance a channel (K = D) |
    | svd | coefficients of the first K principal directions |
    | svd_pts | svd, then `pts` with `exponent` and `temperature` ("auto": mean square 1 on the fitted rows): KDEP |
    | svd_std | svd with deviations from `ratio` to 1, linear in S (`ratio` None: greatest over least channel deviation) |
    | svd_std_sorted | svd with the K greatest channel deviations |
    | whiten | svd with unit deviations |
    | phi_s | svd, rotated to equal variances, one common scale |

    All that was fitted is in buffers (float32), of shapes known before fitting, so a state dict restores it; before that,
    targets are not a number. Raises `UsageError` if the widths do not fit the kind.
    """

    mean_D: Tensor
    scale_K: Tensor
    temperature: Tensor
    rows: Tensor
    index_K: Tensor
    directions_DK: Tensor
    singular_values_K: Tensor

    def __init__(
        self,
        kind: Kind,
        *,
        width: int,
        dim: int,
        exponent: float = 3.0,
        temperature: float | Literal["auto"] = "auto",
        ratio: float | None = None,
    ) -> None:
        super().__init__()
        _refuse_width(kind, width=width, dim=dim)
        self.kind, self.dim, self.exponent, self.given_temperature, self.ratio = kind, dim, exponent, temperature, ratio
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_K", torch.full((dim,), math.nan))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        if kind in get_args(Gathered):
            self.register_buffer("index_K", torch.zeros(dim, dtype=torch.int64))
            return
        self.register_buffer("directions_DK", torch.zeros(width, dim))
        self.register_buffer("singular_values_K", torch.zeros(dim))
        self.register_buffer("temperature", torch.ones(()))

    @torch.no_grad()
    def fit(self, features_ND: Tensor) -> None:
        """Take the statistics from a teacher's features; raise `UsageError` if they cannot give such a target."""
        if features_ND.ndim != 2 or features_ND.shape[1] != len(self.mean_D):
            raise ValueError(f"rows of {len(self.mean_D)} channels are needed, not {tuple(features_ND.shape)}")
        if self.kind in get_args(Gathered):
            self._fit_gathered(features_ND)
        else:
            self._fit_projected(features_ND)
        self.rows.fill_(len(features_ND))

    def _fit_gathered(self, features_ND: Tensor) -> None:
        mean_D, std_D = _channel_statistics(features_ND)
        if self.kind == "select":
            self.index_K.copy_(greatest_variance(features_ND, dim=self.dim))
        else:
            self.index_K.copy_(nearest_channels(len(mean_D), dim=self.dim))
        if self.kind == "standardise":
            self.mean_D.copy_(mean_D)
            self.scale_K.copy_(_inverse_of_alive(std_D))
        else:
            self.scale_K.fill_(1)

    def _fit_projected(self, features_ND: Tensor) -> None:
        covariance = Covariance()
        covariance.update(features_ND)
        basis = covariance.basis(self.dim)
        directions_DK, scale_K = basis.directions_DK, torch.ones_like(basis.singular_values_K)
        if self.kind == "phi_s":
            directions_DK = directions_DK @ equalising_rotation(basis.eigenvalues).to(directions_DK).T
            scale_K = scale_K * _common_scale(basis.eigenvalues)
        elif self.kind == "svd_pts":
            self.temperature.copy_(self._temperature(basis, features_ND))
        elif self.kind != "svd":
            scale_K = self._deviations(basis, covariance.matrix.diagonal().sqrt()) * _inverse_of_all(basis)
        self.mean_D.copy_(basis.mean_D)
        self.directions_DK.copy_(directions_DK)
        self.singular_values_K.copy_(basis.singular_values_K)
        self.scale_K.copy_(scale_K)

    def _temperature(self, basis: Basis, features_ND: Tensor) -> Tensor:
        if self.given_temperature == "auto":
            return auto_temperature(basis.project(features_ND), exponent=self.exponent)
        return torch.tensor(self.given_temperature)

    def _deviations(self, basis: Basis, channel_std_D: Tensor) -> Tensor:
        if self.kind == "whiten":
            return torch.ones_like(basis.singular_values_K)
        if self.kind == "svd_std_sorted":
            return channel_std_D.sort(descending=True).values[: self.dim]
        least, greatest = float(channel_std_D.min()), float(channel_std_D.max())
        if self.ratio is None and least <= _DEAD * greatest:
            raise UsageError(
                f"the teacher's channels vary from {least:.1e} to {greatest:.1e}, which gives no ratio for svd_std",
                mend="give the ratio (the authors' teachers had 2.98 and 4.57)",
            )
        ratio = greatest / least if self.ratio is None else self.ratio
        return matched_deviations(basis.singular_values_K, ratio=ratio)

    def check_rank(self) -> None:
        """Raise `UsageError` as `check_rank` does, for the kinds that have a basis."""
        if self.kind in get_args(Projected):
            check_rank(self.singular_values_K, rows=int(self.rows))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the targets B x K in float32."""
        with torch.autocast(features_BD.device.type, enabled=False):
            centred_BD = features_BD.float() - self.mean_D
            if self.kind in get_args(Gathered):
                return centred_BD[:, self.index_K] * self.scale_K
            target_BK = centred_BD @ self.directions_DK * self.scale_K
            if self.kind == "svd_pts":
                return pts(target_BK, temperature=self.temperature, exponent=self.exponent)
            return target_BK


def fit_target(
    kind: str,
    features_ND: Tensor,
    *,
    dim: int,
    exponent: float = 3.0,
    temperature: float | Literal["auto"] = "auto",
    ratio: float | None = None,
) -> Target:
    """Return a `Target` of this kind and width, fitted on these rows; raise `UsageError` if there is no such target."""
    kinds = (*get_args(Gathered), *get_args(Projected))
    if kind not in kinds:
        raise UsageError(f"there is no target {kind!r}", mend=f"take one of: {', '.join(kinds)}")
    target = Target(
        cast(Kind, kind), width=features_ND.shape[1], dim=dim, exponent=exponent, temperature=temperature, ratio=ratio
    ).to(features_ND.device)
    target.fit(features_ND)
    return target


def _channel_statistics(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    # two passes over chunks: exact for large means, and no float64 copy of all rows
    chunks, rows = features_ND.detach().split(CHUNK_ROWS), len(features_ND)
    mean_D = torch.stack([in_float64(chunk_ND).sum(dim=0) for chunk_ND in chunks]).sum(dim=0) / rows
    square_D = torch.stack([(in_float64(chunk_ND) - mean_D).square().sum(dim=0) for chunk_ND in chunks]).sum(dim=0)
    return mean_D, (square_D / rows).sqrt()


def _common_scale(variance_K: Tensor) -> Tensor:
    mean = variance_K.mean()
    if not bool(mean > 0):
        raise UsageError("the teacher's features do not vary", mend="check its weights, its taps and the images")
    return mean.rsqrt()


def _inverse_of_alive(std_D: Tensor) -> Tensor:
    alive_D = std_D > _DEAD * std_D.max()
    return alive_D / torch.where(alive_D, std_D, 1)


def _inverse_of_all(basis: Basis) -> Tensor:
    std_K = basis.eigenvalues.sqrt()
    if not bool(std_K[-1] > _DEAD * std_K[0]):
        raise UsageError(
            f"direction {len(std_K)} of the teacher's features hardly varies ({float(std_K[-1]):.1e}, the first"
            f" {float(std_K[0]):.1e}): to give it unit variance is to teach noise",
            mend="join more of the teacher's taps, or take a narrower student tap",
        )
    return 1 / std_K


def _refuse_width(kind: str, *, width: int, dim: int) -> None:
    if kind in ("raw", "standardise") and width != dim:
        raise UsageError(
            f"target {kind}: the teacher's features have {width} channels and the student's {dim}",
            mend="take svd_pts or another kind that changes the width, or a learned projector",
        )
    if kind != "interpolate":
        refuse_widening(f"target {kind}", width=width, dim=dim)


def _refuse_not_positive(**numbers: float | Tensor) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Tensor) and not number > 0:
            raise ValueError(f"the {name} must be above 0, not {number}")
