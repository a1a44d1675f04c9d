"""Networks for small images, with the face of timm's models. Axes: B batch, C channels, H height, W width, K classes."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from edgekd.core.genomes.cifar_resnet import WIDTHS
from edgekd.core.genomes.nas_bench_201 import EDGES

Piece = tuple[nn.Module, tuple[int, int, int]]


class CifarNet(nn.Module):
    """A stem, a body of blocks in order, mean pooling and a linear layer; what timm's models answer, it answers too."""

    def __init__(self, *, stem: nn.Module, body: Sequence[nn.Module], last: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.body, self.last = stem, nn.Sequential(*body), last
        self.num_classes = classes
        self.classifier: nn.Module = nn.Linear(width, classes)

    def forward_features(self, image_BCHW: Tensor) -> Tensor:
        """Return the feature map before pooling."""
        return cast(Tensor, self.last(self.body(self.stem(image_BCHW))))

    def forward_head(self, map_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits_BK, or what the linear layer is given."""
        pooled_BC = map_BCHW.mean(dim=(2, 3))
        return pooled_BC if pre_logits else cast(Tensor, self.classifier(pooled_BC))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits_BK."""
        return self.forward_head(self.forward_features(image_BCHW))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Give it a fresh linear layer."""
        width = cast(nn.Linear, self.classifier).in_features
        self.num_classes, self.classifier = num_classes, nn.Linear(width, num_classes)

    def timed(self) -> Iterator[nn.Module]:
        """Yield the modules of the body that take time, one after the other."""
        yield from self.body

    def pieces(self, side: int) -> list[Piece]:
        """Return stem, body and head, each with the shape C x H x W that it is given for images of `side` px."""
        seen = dict[nn.Module, tuple[int, int, int]]()
        modules = [self.stem, *self.timed(), self.last]

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            _, *shape = inputs[0].shape
            seen[module] = (shape[0], shape[1], shape[2])

        hooks = [module.register_forward_pre_hook(note) for module in modules]
        with torch.no_grad():
            self.forward_features(torch.zeros(2, 3, side, side))
        for hook in hooks:
            hook.remove()
        head = nn.Sequential(self.last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.classifier)
        return [*((module, seen[module]) for module in modules[:-1]), (head, seen[self.last])]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input goes by, through a 1 x 1 convolution where the width changes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        stride = 1 if width == out else 2
        self.conv1 = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if width != out:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return relu(F(x) + x)."""
        inner_BCHW = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x_BCHW)))))
        return cast(Tensor, self.act2(inner_BCHW + self.shortcut(x_BCHW)))


def cifar_resnet(depths: Sequence[int], classes: int) -> CifarNet:
    """Return the residual network with so many basic blocks in each stage (He et al. 2016, section 4.2)."""
    stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
    body, width = list[nn.Module](), WIDTHS[0]
    for depth, out in zip(depths, WIDTHS, strict=True):
        for _ in range(depth):
            body.append(BasicBlock(width, out))
            width = out
    return CifarNet(stem=stem, body=body, last=nn.Identity(), width=width, classes=classes)


class Nothing(nn.Module):
    """The operation `none`: zeros."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return zeros of the same shape."""
        return torch.zeros_like(x_BCHW)


def _operation(name: str, width: int) -> nn.Module:
    match name:
        case "none":
            return Nothing()
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case _:
            kernel = 3 if name == "nor_conv_3x3" else 1
            convolution = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(width))


class Cell(nn.Module):
    """Four nodes; each is the sum of the operations on the edges that lead to it."""

    def __init__(self, operations: Sequence[str], width: int) -> None:
        super().__init__()
        self.names = tuple(operations)
        self.edges = nn.ModuleList(_operation(name, width) for name in operations)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the last node."""
        nodes = [x_BCHW]
        for node in (1, 2, 3):
            given = [edge(nodes[origin]) for edge, (to, origin) in zip(self.edges, EDGES, strict=True) if to == node]
            nodes.append(torch.stack(given).sum(dim=0))
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block of stride 2 that doubles the width; the shortcut is a mean over 2 x 2 and a 1 x 1 convolution."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReLU(), nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out))
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(width, out, 1, bias=False))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return F(x) plus the shortcut."""
        return cast(Tensor, self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


class CellNet(CifarNet):
    """The network of NAS-Bench-201 around one cell."""

    def timed(self) -> Iterator[nn.Module]:
        """Yield the cells' operations edge by edge, leaving out those that take no time, and the reductions."""
        for block in self.body:
            if isinstance(block, Cell):
                named = zip(block.names, block.edges, strict=True)
                yield from (edge for name, edge in named if name not in ("none", "skip_connect"))
            else:
                yield block


def cell_net(operations: Sequence[str], *, cells: int, classes: int) -> CellNet:
    """Return three stages of `cells` equal cells at widths 16, 32 and 64, reductions between them."""
    stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]))
    body = list[nn.Module]()
    for stage, width in enumerate(WIDTHS):
        body += [Reduction(WIDTHS[stage - 1], width)] if stage else []
        body += [Cell(operations, width) for _ in range(cells)]
    last = nn.Sequential(nn.BatchNorm2d(WIDTHS[-1]), nn.ReLU())
    return CellNet(stem=stem, body=body, last=last, width=WIDTHS[-1], classes=classes)
