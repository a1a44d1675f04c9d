"""A timm teacher that leaves out residual blocks: every draw is a teacher of its own.

Axes: B batch, C channels, H height, W width, L residual blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distilling.teachers import timm

_PRIME = 2**31 - 1
_ROUNDS = 3
_BRANCHES = ("drop_path", "drop_path1", "drop_path2")


class StochasticDepth(timm.Timm):
    """A timm model whose residual blocks are left out at random, image by image: a teacher a draw.

    Lee et al. 2022 draw anew in each batch; here what is left out is a pure function of the pixels and `draw`, so answers can
    be kept, and two of these with other draws are two teachers. Without retraining only a small `drop` leaves a good teacher;
    `exit_<k>` taps are the cheaper sub-teachers.
    """

    drop: Annotated[float, Field(gt=0, lt=1)] = 0.05
    draw: Annotated[int, Field(ge=0, lt=2**31 - 1)] = 0

    def load(self) -> "timm.FrozenTimm":
        """Load the model; raise `UsageError` if it has no residual blocks to leave out, and else as `timm` does."""
        return _Shortened(super().load(), drop=self.drop, draw=self.draw)


class _Shortened(timm.FrozenTimm):
    """A frozen timm model with a switch in each residual block."""

    def __init__(self, whole: timm.FrozenTimm, *, drop: float, draw: int) -> None:
        super().__init__(
            whole._tapped,
            weights_sha256=whole.weights_sha256,
            precision=whole.precision,
            classes=whole.classes,
            zero_shot_sha256=whole.zero_shot_sha256,
        )
        self.name = f"{whole.name} without {drop:g} of its blocks, draw {draw}"  # what is kept belongs to this draw alone
        self._draw, self._drop = draw, drop
        self._switches = _switched(self._tapped)
        if not self._switches:
            raise UsageError(
                f"{whole.name} has no residual blocks that timm could leave out",
                mend="use a ViT, a ConvNeXt, an EfficientNet or a MobileNet, or the teacher `timm` with `exit_<k>` taps",
            )

    @torch.no_grad()
    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the tapped features in float32, of as many teachers as there are images."""
        parts = image_BCHW.split(timm._CPU_BATCH if self._device.type == "cpu" else len(image_BCHW) or 1)
        answers = []
        for part_BCHW in parts:
            kept_BL = kept_blocks(part_BCHW, blocks=len(self._switches), drop=self._drop, draw=self._draw)
            with _set(self._switches, kept_BL):
                answers.append(self._tapped.features(part_BCHW, taps))
        return {tap: torch.cat([answer[tap].float() for answer in answers]) for tap in taps}


class _Switch(nn.Module):
    """In the place of timm's drop path, which does nothing in evaluation: lets a branch through or not."""

    kept_B: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        if self.kept_B is None:
            return branch
        return branch * self.kept_B.view(-1, *(1,) * (branch.ndim - 1)).to(branch)


def kept_blocks(image_BCHW: Tensor, *, blocks: int, drop: float, draw: int) -> Tensor:
    """Return for each image which of so many blocks are kept, B x L: integers of the pixels, the same on every machine."""
    pixel_BN = (image_BCHW * 255).round().to(torch.int64).flatten(1)
    place_N = torch.arange(1, pixel_BN.shape[1] + 1, device=pixel_BN.device)
    image_B = ((pixel_BN + 1) * (place_N * 48271 % _PRIME) % _PRIME).sum(dim=1) % _PRIME
    state_BL = (image_B.unsqueeze(1) + 69621 * torch.arange(1, blocks + 1, device=pixel_BN.device) + 39373 * draw) % _PRIME
    for _ in range(_ROUNDS):
        state_BL = (state_BL ^ (state_BL >> 13)) % _PRIME
        state_BL = (state_BL * 630360016 + 1) % _PRIME
    return state_BL.double() / _PRIME >= drop


def _switched(model: nn.Module) -> list[list[_Switch]]:
    """Put switches into the residual blocks, those of a block together, and return them block by block."""
    found = []
    for block in list(model.modules()):
        names = [name for name in _BRANCHES if isinstance(getattr(block, name, None), nn.Module)]
        if not names or not getattr(block, "has_skip", True):
            continue
        switches = [_Switch() for _ in names]
        for name, switch in zip(names, switches, strict=True):
            setattr(block, name, switch)
        found.append(switches)
    return found


@contextmanager
def _set(switches: list[list[_Switch]], kept_BL: Tensor) -> Iterator[None]:
    """Leave out blocks while the model answers."""
    try:
        for block, kept_B in zip(switches, kept_BL.T, strict=True):
            for switch in block:
                switch.kept_B = kept_B
        yield
    finally:
        for block in switches:
            for switch in block:
                switch.kept_B = None
