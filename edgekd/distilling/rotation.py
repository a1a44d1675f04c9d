"""Rotations after which all channels vary equally. Axes: K channels."""

import math

import numpy as np
import torch
from torch import Tensor

_SYLVESTER = np.array([[1.0, 1.0], [1.0, -1.0]])


def equalising_rotation(variance_K: Tensor) -> Tensor:
    """Return an orthogonal K x K matrix (float64, CPU) that gives uncorrelated channels of these variances equal ones.

    A normalised Hadamard matrix where doubling and Paley's first construction reach one (all of 384, 576, 768, 960, 1024,
    1280): its squared entries are equal, so it does so for any variances. For other widths Hartley's matrix, which mixes
    almost as evenly, followed by at most K - 1 plane rotations that make it exact for these variances (Schur-Horn).
    """
    hadamard_KK = _hadamard(len(variance_K))
    if hadamard_KK is not None:
        return torch.from_numpy(hadamard_KK / math.sqrt(len(variance_K)))
    return torch.from_numpy(_levelled_hartley(variance_K.detach().double().cpu().numpy()))


def _hadamard(order: int) -> np.ndarray | None:
    if order in (1, 2):
        return _SYLVESTER[:order, :order]
    if order % 4 != 0:
        return None
    half = _hadamard(order // 2)
    if half is not None:
        return np.kron(_SYLVESTER, half)
    return _paley(order) if _is_prime(order - 1) else None


def _paley(order: int) -> np.ndarray:
    # the prime is 3 modulo 4, so -1 is no square, the core is skew and I + core has orthogonal rows
    prime = order - 1
    character = np.full(prime, -1.0)
    character[[x * x % prime for x in range(1, prime)]] = 1.0
    character[0] = 0.0
    column = np.arange(prime)
    matrix = np.ones((order, order))
    matrix[1:, 0] = -1.0
    matrix[1:, 1:] = character[(column[:, None] - column) % prime] + np.eye(prime)
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _levelled_hartley(variance_K: np.ndarray) -> np.ndarray:
    size = len(variance_K)
    turn = 2 * np.pi * (np.outer(np.arange(size), np.arange(size)) % size) / size
    rotation = (np.cos(turn) + np.sin(turn)) / math.sqrt(size)
    covariance = (rotation * variance_K) @ rotation.T
    level = variance_K.mean()
    for _ in range(size - 1):
        high, low = int(np.argmax(np.diag(covariance))), int(np.argmin(np.diag(covariance)))
        above, below = covariance[high, high] - level, level - covariance[low, low]
        if min(above, below) <= 1e-13 * level:
            break
        # tan of the angle at which the higher of the two comes to the level: below t^2 - 2 c t - above = 0, smaller root
        shared = covariance[high, low]
        root = math.sqrt(shared**2 + above * below)
        tangent = -above / (shared + math.copysign(root, shared))
        cosine = 1 / math.hypot(1, tangent)
        plane = cosine * np.array([[1, tangent], [-tangent, 1]])
        pair = [high, low]
        rotation[pair] = plane @ rotation[pair]
        covariance[pair] = plane @ covariance[pair]
        covariance[:, pair] = covariance[:, pair] @ plane.T
    return rotation
