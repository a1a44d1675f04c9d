"""edgekd distils a large vision transformer into a small student, exports it, measures it and judges it.

Public names are bound on first use; importing edgekd imports no torch.
"""

import sys
from typing import Any

from edgekd import _torchvision

__version__ = "0.1.0"

_HOME = {
    "run": "edgekd.pipeline",
    "distill": "edgekd.pipeline",
    "finetune": "edgekd.students",
    "probe": "edgekd.students",
    "backbone": "edgekd.students",
    "search": "edgekd.choosing",
    "export": "edgekd.pipeline",
    "bench": "edgekd.pipeline",
    "report": "edgekd.verdicts",
    "gate": "edgekd.verdicts",
    "load_recipe": "edgekd.recipe",
}
__all__ = ["__version__", *sorted(_HOME)]

_torchvision.install()
# OpenVINO reports each import of itself to its maker through this package, and does without where it is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
