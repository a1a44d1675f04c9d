"""Distances of symmetric positive definite matrices. Axes: N rows and columns, images as a rule."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgekd.distilling.losses._vectors import refuse_other_shape
from edgekd.distilling.precision import full_precision, in_float64


@full_precision
def log_euclidean(student_NN: Tensor, teacher_NN: Tensor, *, eps: float) -> Tensor:
    """Return |log(A + eps I) - log(B + eps I)|_F^2 with matrix logarithms, of the symmetric parts (Wu et al. 2019, eq. 5).

    In float64. The gradient is the exact one of Daleckii and Krein, which equal eigenvalues do not disturb, as they do the
    eigenvectors' own. Not a number where an entry is not. Raises `ValueError` if a matrix is not positive definite once `eps`
    is added: similarities of more images than there are channels, or of the same image twice, need it.
    """
    refuse_other_shape(student_NN, teacher_NN)
    if student_NN.ndim != 2 or len(student_NN) != student_NN.shape[1]:
        raise ValueError(f"not two square matrices: {tuple(student_NN.shape)}")
    difference_NN = _log(_raised(student_NN, eps)) - _log(_raised(teacher_NN.detach(), eps))
    return difference_NN.square().sum().to(student_NN)


def _raised(matrix_NN: Tensor, eps: float) -> Tensor:
    exact_NN = in_float64(matrix_NN)
    return (exact_NN + exact_NN.mT) / 2 + eps * torch.eye(len(exact_NN), dtype=exact_NN.dtype, device=exact_NN.device)


def _log(matrix_NN: Tensor) -> Tensor:
    if not bool(matrix_NN.isfinite().all()):
        return matrix_NN * torch.nan  # eigenvalues of such a matrix are an error in LAPACK; the loss shall be what it is
    found_NN: Tensor = _MatrixLogarithm.apply(matrix_NN)  # type: ignore[no-untyped-call]
    return found_NN


class _MatrixLogarithm(torch.autograd.Function):
    """log A = U diag(ln l) U^T, and its differential U (F o (U^T dA U)) U^T with F the divided differences of ln."""

    @staticmethod
    def forward(ctx: Any, matrix_NN: Tensor) -> Tensor:
        value_N, vector_NN = torch.linalg.eigh(matrix_NN)
        if not bool(value_N[0] > 0):
            raise ValueError(f"not positive definite: the least eigenvalue is {float(value_N[0]):.3g}; a larger eps helps")
        ctx.save_for_backward(value_N, vector_NN)
        logarithm_NN: Tensor = (vector_NN * value_N.log()) @ vector_NN.mT
        return logarithm_NN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NN: Tensor) -> Tensor:
        value_N, vector_NN = ctx.saved_tensors
        inner_NN = vector_NN.mT @ ((grad_NN + grad_NN.mT) / 2) @ vector_NN
        return cast(Tensor, vector_NN @ (_divided_differences(value_N) * inner_NN) @ vector_NN.mT)


def _divided_differences(value_N: Tensor) -> Tensor:
    """Return (ln a - ln b) / (a - b), 1 / a on the diagonal, to the last digits also where a and b nearly agree.

    It is 2 artanh(x) / (x (a + b)) with x = (a - b) / (a + b); of the series of artanh(x) / x four terms do below 1e-3.
    """
    a_NN, b_NN = value_N.unsqueeze(1), value_N.unsqueeze(0)
    sum_NN, difference_NN = a_NN + b_NN, a_NN - b_NN
    x_NN = difference_NN / sum_NN
    near_NN = x_NN.abs() < 1e-3
    square_NN = x_NN.square()
    series_NN = 2 / sum_NN * (1 + square_NN / 3 + square_NN.square() / 5 + square_NN.pow(3) / 7)
    far_NN = (a_NN.log() - b_NN.log()) / torch.where(near_NN, 1, difference_NN)
    return torch.where(near_NN, series_NN, far_NN)
