"""Networks written as text: what a search changes, a recipe names and a student builds. Strictly read, written one way."""

from edgekd.core.genomes.cifar_resnet import CifarResnetGenome
from edgekd.core.genomes.mobile import MobileBlock, MobileGenome, MobileStage
from edgekd.core.genomes.nas_bench_201 import NasBench201Genome

__all__ = ["CifarResnetGenome", "MobileBlock", "MobileGenome", "MobileStage", "NasBench201Genome"]
