"""The one guard that lets torchvision load beside a CPU build of torch.

torchvision's wheels on the public index link CUDA libraries. Beside a CPU torch their operators do not load, and torchvision
then registers fake kernels for two operators that do not exist, which raises; timm, which imports torchvision, dies with it.
Declaring those two operators' schemas just before that point is enough. Nothing happens where the operators do load, and
nothing is imported until somebody imports torchvision.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_TARGET = "torchvision._meta_registrations"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []


class _DeclareFirst(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        import torch
        from torchvision.extension import _has_ops

        if not _has_ops() and not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms" + _SCHEMA)
            library.define("qnms" + _SCHEMA)
            _kept.append(library)
        self._loader.exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TARGET:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _DeclareFirst(spec.loader)
        return spec


def install() -> None:
    """Put the guard in front of the import system, once per process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
