"""MobileNet-class networks: inverted residuals in the frames of MobileNetV3 (Howard et al. 2019), small and large."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest

ACTIVATIONS = ("relu", "relu6", "hard_swish", "silu")
KERNELS = (3, 5, 7)
_EXAMPLE = "small r224 w1 hard_swish k3e4d2 k5e4d3se k5e3d2se k5e6d3se"
_MOST = {"expansion": 8, "depth": 8}
_SIZES_PX = range(32, 513, 16)
_STAGE = re.compile(r"k([357])e([1-9])d([1-9])(se)?")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a skeleton fixes: stem, the first separable block, channels and stride of each stage, the last layers."""

    stem: int
    first: int
    first_stride: int
    first_squeezed: bool
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    last: int
    hidden: int


SKELETONS = {
    "small": Frame(
        stem=16,
        first=16,
        first_stride=2,
        first_squeezed=True,
        channels=(24, 40, 48, 96),
        strides=(2, 2, 1, 2),
        last=576,
        hidden=1024,
    ),
    "large": Frame(
        stem=16,
        first=16,
        first_stride=1,
        first_squeezed=False,
        channels=(24, 40, 80, 112, 160),
        strides=(2, 2, 2, 1, 2),
        last=960,
        hidden=1280,
    ),
}


@dataclass(frozen=True, kw_only=True)
class MobileStage:
    """`k5e4d3se`: `depth` inverted residuals of one kernel and expansion, squeezed and excited or not."""

    kernel: int
    expansion: int
    depth: int
    squeezed: bool = False

    def __str__(self) -> str:
        return f"k{self.kernel}e{self.expansion}d{self.depth}{'se' if self.squeezed else ''}"


@dataclass(frozen=True, kw_only=True)
class MobileBlock:
    """A block of a network: what it is, in words that two equal blocks share, and its place in the built model.

    `input_CHW` is what comes in; `timm` is timm's own spelling of a residual block, empty for stem and head.
    """

    key: str
    place: str
    input_CHW: tuple[int, int, int]
    timm: str = ""


@dataclass(frozen=True, kw_only=True)
class MobileGenome:
    """`small r224 w1 hard_swish k3e4d2 ...`: skeleton, input size, width multiplier, activation, and each stage."""

    skeleton: str
    size_px: int
    width: float
    activation: str
    stages: tuple[MobileStage, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a genome; raise `UsageError` that says which word is wrong and what it may be."""
        words = text.split(" ")
        if len(words) < 5 or words[0] not in SKELETONS:
            raise UsageError(
                f"genome {text!r}: is not a MobileNet-class network.{nearest(words[0], tuple(SKELETONS))}",
                mend=f"begin with a skeleton ({', '.join(SKELETONS)}), as in {_EXAMPLE}",
            )
        skeleton, size, width, activation, *stages = words
        if activation not in ACTIVATIONS:
            raise _wrong(text, activation, f"an activation: {', '.join(ACTIVATIONS)}{nearest(activation, ACTIVATIONS)}")
        wanted = len(SKELETONS[skeleton].channels)
        if len(stages) != wanted:
            raise UsageError(f"genome {text!r}: has {len(stages)} stages", mend=f"give {skeleton!r} its {wanted} stages")
        found = cls(
            skeleton=skeleton,
            size_px=_size_px(text, size),
            width=_width(text, width),
            activation=activation,
            stages=tuple(_stage(text, word) for word in stages),
        )
        if str(found) != text:
            raise UsageError(f"genome {text!r}: is spelled {str(found)!r}")
        return found

    def __str__(self) -> str:
        head = f"{self.skeleton} r{self.size_px} w{self.width:g} {self.activation}"
        return " ".join([head, *map(str, self.stages)])

    @property
    def frame(self) -> Frame:
        """Return what the skeleton fixes."""
        return SKELETONS[self.skeleton]

    def channels(self, base: int) -> int:
        """Return a number of channels times the width, rounded to multiples of 8 as MobileNets round it."""
        scaled = base * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    @property
    def last_channels(self) -> int:
        """Return the width of the feature map before pooling."""
        return self.channels(self.frame.last)

    def blocks(self, classes: int) -> tuple[MobileBlock, ...]:
        """Return the network block by block, from the stem to the head; equal blocks have equal keys."""
        return tuple(self._walk(classes))

    def _walk(self, classes: int) -> Iterator[MobileBlock]:
        frame, side = self.frame, self.size_px
        width = self.channels(frame.stem)
        yield MobileBlock(key=f"stem 3>{width} {self.activation} @{side}", place="stem", input_CHW=(3, side, side))
        side = _halved(side)
        first = MobileStage(kernel=3, expansion=1, depth=1, squeezed=frame.first_squeezed)
        plan = [(first, frame.first, frame.first_stride)]
        plan += [*zip(self.stages, frame.channels, frame.strides, strict=True)]
        for number, (stage, base, stage_stride) in enumerate(plan):
            out = self.channels(base)
            for repeat in range(stage.depth):
                stride = stage_stride if repeat == 0 else 1
                kind = "ds" if number == 0 else "ir"
                squeezed = "_se0.25" if stage.squeezed else ""
                spelled = f"{kind}_r1_k{stage.kernel}_s{stride}_e{stage.expansion}_c{out}{squeezed}"
                key = f"{spelled} {width}>{out} {self.activation} @{side}"
                yield MobileBlock(key=key, place=f"{number}.{repeat}", input_CHW=(width, side, side), timm=spelled)
                side, width = _halved(side) if stride == 2 else side, out
        last = self.last_channels
        spelled = f"cn_r1_k1_s1_c{last}"
        key = f"{spelled} {width}>{last} {self.activation} @{side}"
        yield MobileBlock(key=key, place=f"{len(plan)}.0", input_CHW=(width, side, side), timm=spelled)
        key = f"head {last}>{frame.hidden}>{classes} {self.activation} @{side}"
        yield MobileBlock(key=key, place="head", input_CHW=(last, side, side))


def _halved(side: int) -> int:
    return (side + 1) // 2


def _size_px(text: str, word: str) -> int:
    if not re.fullmatch(r"r[1-9]\d*", word) or int(word[1:]) not in _SIZES_PX:
        raise _wrong(text, word, f"an input size: r and a multiple of 16 from {_SIZES_PX[0]} to {_SIZES_PX[-1]}, as in r224")
    return int(word[1:])


def _width(text: str, word: str) -> float:
    if not re.fullmatch(r"w\d(\.\d+)?", word) or not 0.1 <= float(word[1:]) <= 4:
        raise _wrong(text, word, "a width multiplier: w and a number from 0.1 to 4, as in w0.75")
    return float(word[1:])


def _stage(text: str, word: str) -> MobileStage:
    match = _STAGE.fullmatch(word)
    if match is None or int(match[2]) > _MOST["expansion"] or int(match[3]) > _MOST["depth"]:
        raise _wrong(
            text, word, "a stage: kernel 3, 5 or 7, expansion 1 to 8, depth 1 to 8, and `se` or nothing, as in k5e4d3se"
        )
    return MobileStage(kernel=int(match[1]), expansion=int(match[2]), depth=int(match[3]), squeezed=match[4] is not None)


def _wrong(text: str, word: str, wanted: str) -> UsageError:
    return UsageError(f"genome {text!r}: {word!r} is not {wanted}", mend=f"write it as in: {_EXAMPLE}")
