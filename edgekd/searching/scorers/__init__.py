"""What says how good an untrained student is, one file each; and the pure functions behind them, bound on first use."""

from typing import TYPE_CHECKING, Any

from edgekd.core.ranks import rank_correlation

if TYPE_CHECKING:
    from edgekd.searching.similarity import relation, semantic

__all__ = ["rank_correlation", "relation", "semantic"]


def __getattr__(name: str) -> Any:
    # Looking a scorer's help line up imports this package, and must not import torch.
    if name not in ("relation", "semantic"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgekd.searching import similarity

    return getattr(similarity, name)
