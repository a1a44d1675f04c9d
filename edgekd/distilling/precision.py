"""Arithmetic that mixed precision must not touch."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a function compute outside autocast, in its first float tensor's type but at least in float32.

    The other float tensors are brought to that type; float64 stays float64. Raises `TypeError` if no float tensor is given.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = next((value for value in (*args, *kwargs.values()) if _is_float(value)), None)
        if not isinstance(first, Tensor):
            raise TypeError(f"{function.__name__}() was given no tensor of a float type")
        dtype = torch.promote_types(first.dtype, torch.float32)

        def widen(value: Any) -> Any:
            return value.to(dtype) if _is_float(value) else value

        with torch.autocast(first.device.type, enabled=False):
            return function(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return run


def in_float64(x: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none (Apple's GPUs)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
