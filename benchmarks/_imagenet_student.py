"""MobileNetV2 with its ImageNet weights as an ONNX file, as users bring one; widened or made worse on request."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.core.contracts import Exportable
from edgekd.core.parts import load
from edgekd.exporting import graph
from edgekd.exporting.stage import sample_for

CONTRACT = """\
size: {size}
resize: {resize}
interpolation: bilinear
range: [0, 1]
mean: [0, 0, 0]
std: [1, 1, 1]
channels: RGB
answers: logits
"""


def write_model(data: Path, folder: Path, *, size: int = 224, changed: Callable[[Any], Any] = lambda net: net) -> Path:
    """Write the ONNX file, which normalises inside, and its classes and contract beside it; `changed` may alter the network."""
    from edgekd.distilling import models

    weights = data / "weights/mobilenetv2_100.imagenet1k.safetensors"
    student: Any = load("student", "timm")(model="mobilenetv2_100", weights=weights, size=size)
    tapped = models.build("mobilenetv2_100", weights=weights, size=size).eval()
    contract = tapped.contract()
    module = changed(student.exportable(tapped))
    exportable = Exportable(module=module, input=contract, classes=(), metadata={}, sample_BCHW=sample_for(contract))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mobilenetv2.onnx"
    path.write_bytes(graph.serialized(graph.to_onnx(exportable)))
    rows = [line.split("\t") for line in (data / "weights/imagenet1k_classes.tsv").read_text().splitlines()[1:]]
    (folder / "classes.tsv").write_text("".join(f"{name}\t{wnid}\n" for _, wnid, name in rows))
    (folder / "contract.yaml").write_text(CONTRACT.format(size=size, resize=round(size / 0.875)))
    return path


def widened(net: Any, share: float) -> Any:
    """Return the network with `share` more channels inside each inverted residual, which answers the same.

    Net2Wider (Chen et al. 2016): some hidden channels are there twice, and what reads them takes half from each.
    """
    import torch
    from timm.models._efficientnet_blocks import InvertedResidual

    net = copy.deepcopy(net)
    with torch.no_grad():
        for block in [module for module in net.modules() if isinstance(module, InvertedResidual)]:
            hidden = block.conv_pw.out_channels
            twice = torch.cat([torch.arange(hidden), torch.arange(round(share * hidden / 8) * 8)])
            count_H = torch.bincount(twice, minlength=hidden).to(torch.float32)
            for conv in (block.conv_pw, block.conv_dw):
                conv.weight = torch.nn.Parameter(conv.weight[twice].clone())
                conv.out_channels = len(twice)
            block.conv_dw.in_channels = block.conv_dw.groups = len(twice)
            for norm in (block.bn1, block.bn2):
                for name in ("weight", "bias"):
                    setattr(norm, name, torch.nn.Parameter(getattr(norm, name)[twice].clone()))
                for name in ("running_mean", "running_var"):
                    setattr(norm, name, getattr(norm, name)[twice].clone())
                norm.num_features = len(twice)
            read = block.conv_pwl.weight / count_H.reshape(1, -1, 1, 1)
            block.conv_pwl.weight = torch.nn.Parameter(read[:, twice].clone())
            block.conv_pwl.in_channels = len(twice)
    return net


def noisy(net: Any, amount: float, seed: int) -> Any:
    """Return the network with noise on every convolution: a normal one of `amount` times the weights' own deviation."""
    import torch

    net, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                noise = torch.randn(module.weight.shape, generator=draw)
                module.weight += amount * module.weight.std() * noise
    return net
