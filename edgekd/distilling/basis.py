"""The principal directions of a teacher's features. Axes: N rows fitted on, B batch, D the teacher's width, K directions."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from edgekd.core.errors import DataError, UsageError
from edgekd.distilling.precision import full_precision, in_float64

ROWS_PER_DIRECTION = 10
SMALLEST_EIGENVALUE_SHARE = 1e-6
CHUNK_ROWS = 4096


class Covariance:
    """Mean and covariance of rows that come in chunks, in float64, whatever their mean (merging after Chan et al. 1979)."""

    def __init__(self) -> None:
        self.rows = 0
        self.mean_D = torch.empty(0)
        self.scatter_DD = torch.empty(0)

    def update(self, features_BD: Tensor) -> None:
        """Take more rows; raise `DataError` if they hold numbers that are not finite."""
        for chunk_BD in features_BD.detach().split(CHUNK_ROWS):
            self._merge(in_float64(chunk_BD))

    def _merge(self, chunk_BD: Tensor) -> None:
        rows, mean_D = len(chunk_BD), chunk_BD.mean(dim=0)
        if rows == 0:
            return
        if not bool(mean_D.isfinite().all()):
            raise DataError("the teacher's features hold numbers that are not finite", mend="check its weights and taps")
        centred_BD = chunk_BD - mean_D
        scatter_DD = centred_BD.T @ centred_BD
        if self.rows == 0:
            self.rows, self.mean_D, self.scatter_DD = rows, mean_D, scatter_DD
            return
        total, shift_D = self.rows + rows, mean_D - self.mean_D
        self.scatter_DD += scatter_DD + torch.outer(shift_D, shift_D) * (self.rows * rows / total)
        self.mean_D = self.mean_D + shift_D * (rows / total)
        self.rows = total

    @property
    def matrix(self) -> Tensor:
        """Return the covariance D x D (divided by N)."""
        return self.scatter_DD / max(self.rows, 1)

    def basis(self, dim: int) -> "Basis":
        """Return the first `dim` principal directions, in float64; raise `UsageError` if there are not as many."""
        refuse_widening("basis", width=len(self.mean_D), dim=dim)
        value_D, direction_DD = torch.linalg.eigh(self.matrix)
        value_K = value_D.flip(0)[:dim].clamp(min=0)
        return Basis(
            mean_D=self.mean_D,
            directions_DK=_with_fixed_signs(direction_DD.flip(1)[:, :dim]),
            singular_values_K=(self.rows * value_K).sqrt(),
            rows=self.rows,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Basis:
    """The first K right singular vectors of centred features, their singular values, and the mean (KDEP, He et al. 2022).

    Signs are fixed: the largest entry of each direction is positive.
    """

    mean_D: Tensor
    directions_DK: Tensor
    singular_values_K: Tensor
    rows: int

    @classmethod
    def fit(cls, features_ND: Tensor, *, dim: int) -> Self:
        """Return the basis of these rows, in their type (at least float32); raise `UsageError` if `dim` exceeds D."""
        covariance = Covariance()
        covariance.update(features_ND)
        basis = covariance.basis(dim)
        dtype, device = torch.promote_types(features_ND.dtype, torch.float32), features_ND.device
        return cls(
            mean_D=basis.mean_D.to(device, dtype),
            directions_DK=basis.directions_DK.to(device, dtype),
            singular_values_K=basis.singular_values_K.to(device, dtype),
            rows=basis.rows,
        )

    @property
    def eigenvalues(self) -> Tensor:
        """Return the K eigenvalues of the covariance, S_k^2 / N: the variance of each coefficient."""
        return self.singular_values_K.square() / self.rows

    @full_precision
    def project(self, features_BD: Tensor) -> Tensor:
        """Return the coefficients B x K of centred features, in the features' type."""
        return (features_BD - self.mean_D.to(features_BD)) @ self.directions_DK.to(features_BD)

    def check_rank(self) -> None:
        """Raise `UsageError` if the last directions are noise that a root or a division would amplify."""
        check_rank(self.singular_values_K, rows=self.rows)


def check_rank(singular_values_K: Tensor, *, rows: int) -> None:
    """Raise `UsageError` if there were fewer than 10 rows a direction, or lambda_K / lambda_1 is below 1e-6."""
    dim = len(singular_values_K)
    if rows < ROWS_PER_DIRECTION * dim:
        raise UsageError(
            f"{rows} rows of the teacher's features are too few for a basis of {dim} directions:"
            f" {ROWS_PER_DIRECTION} a direction are needed, {ROWS_PER_DIRECTION * dim}",
            mend="give more images or more views of each, or a narrower student tap",
        )
    variance_K = singular_values_K.double().cpu().square()
    share = float(variance_K[-1] / variance_K[0]) if variance_K[0] > 0 else 0.0
    if share < SMALLEST_EIGENVALUE_SHARE:
        alive = int((variance_K >= SMALLEST_EIGENVALUE_SHARE * variance_K[0]).sum()) if variance_K[0] > 0 else 0
        raise UsageError(
            f"the teacher's features do not fill {dim} directions: the last one varies {share:.1e} times as much as the first"
            f" (allowed: {SMALLEST_EIGENVALUE_SHARE:.0e}); {alive} directions do",
            mend="join more of the teacher's taps (such as patch_mean+last_3), or take a narrower student tap",
        )


def _with_fixed_signs(directions_DK: Tensor) -> Tensor:
    # Of entries that are as large but for rounding, the first decides: otherwise the last bit would choose the sign.
    magnitude_DK = directions_DK.abs()
    deciding_K = (magnitude_DK >= magnitude_DK.amax(dim=0) * (1 - 1e-6)).int().argmax(dim=0)
    return directions_DK * directions_DK.gather(0, deciding_K.unsqueeze(0)).sign()


def refuse_widening(what: str, *, width: int, dim: int) -> None:
    """Raise `UsageError` if `dim` channels cannot be had from a teacher's `width`."""
    if not 0 < dim <= width:
        raise UsageError(
            f"{what}: {dim} channels cannot be had from a teacher's features of {width}",
            mend="join taps of the teacher into a wider vector (such as patch_mean+last_3), take a narrower student tap,"
            " or a learned projector",
        )
