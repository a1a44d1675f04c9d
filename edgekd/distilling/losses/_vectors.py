"""Directions of vectors, defined everywhere and with finite gradients, and the refusals that losses share."""

import torch
from torch import Tensor


def direction(x: Tensor, *, dim: int, noise: Tensor | None = None) -> Tensor:
    # Divided by its largest entry first, the length can neither overflow nor underflow. Below `noise` there is no direction:
    # such vectors are left as they are (as good as 0), for their gradient would be 1 / length.
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    none = largest <= (torch.finfo(x.dtype).tiny ** 0.5 if noise is None else noise)
    scaled = x / torch.where(none, 1, largest)
    square = torch.where(none, 1, scaled.square().sum(dim=dim, keepdim=True))
    return scaled / square.sqrt()


def z_direction(x: Tensor, *, dim: int) -> Tensor:
    # the z-score up to a factor: products of two sum to Pearson's correlation
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    noise = (8 * torch.finfo(x.dtype).eps * x.detach().abs().amax(dim=dim, keepdim=True)).clamp(min=tiny)
    return direction(x - x.mean(dim=dim, keepdim=True), dim=dim, noise=noise)


def refuse_other_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"not the same shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def refuse_other_batch(student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):
        raise ValueError(f"not the same number of rows: {tuple(student.shape)} and {tuple(teacher.shape)}")
