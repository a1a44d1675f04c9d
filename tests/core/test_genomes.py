"""Genomes are read strictly and written one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from edgekd.core.errors import UsageError
from edgekd.core.genomes import CifarResnetGenome, MobileGenome, MobileStage, NasBench201Genome
from edgekd.core.genomes.mobile import ACTIVATIONS, SKELETONS
from edgekd.core.genomes.nas_bench_201 import OPERATIONS

MOBILE = "small r224 w1 hard_swish k3e4d2 k5e4d3se k5e3d2se k5e6d3se"

stages = some.builds(
    MobileStage,
    kernel=some.sampled_from((3, 5, 7)),
    expansion=some.integers(1, 8),
    depth=some.integers(1, 8),
    squeezed=some.booleans(),
)


@some.composite
def mobiles(draw: some.DrawFn) -> MobileGenome:
    skeleton = draw(some.sampled_from(sorted(SKELETONS)))
    count = len(SKELETONS[skeleton].channels)
    return MobileGenome(
        skeleton=skeleton,
        size_px=draw(some.sampled_from(range(32, 513, 16))),
        width=draw(some.sampled_from((0.25, 0.5, 0.75, 1.0, 1.25, 2.0))),
        activation=draw(some.sampled_from(ACTIVATIONS)),
        stages=tuple(draw(some.lists(stages, min_size=count, max_size=count))),
    )


@given(mobiles())
def test_a_mobile_genome_is_read_as_it_was_written(genome: MobileGenome) -> None:
    """Text and back; every network has as many blocks as its depths say, and stem, first, last and head."""
    assert MobileGenome.parse(str(genome)) == genome
    blocks = genome.blocks(10)
    assert len(blocks) == 4 + sum(stage.depth for stage in genome.stages)
    assert all(block.input_CHW[0] % 8 == 0 for block in blocks[1:])


@given(some.tuples(*[some.sampled_from(OPERATIONS)] * 6))
def test_a_cell_is_read_as_it_was_written(operations: tuple[str, str, str, str, str, str]) -> None:
    """In the benchmark's own spelling."""
    genome = NasBench201Genome(operations)
    assert NasBench201Genome.parse(str(genome)) == genome


def test_the_spelling_of_a_cell_is_the_benchmarks() -> None:
    """The cell that the paper prints as an example of the spelling."""
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    assert str(NasBench201Genome.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiny r224 w1 relu k3e4d2 k3e4d2 k3e4d2 k3e4d2", "is not a MobileNet-class network"),
        (MOBILE.replace("r224", "r220"), "'r220' is not an input size"),
        (MOBILE.replace("w1", "w9"), "'w9' is not a width multiplier"),
        (MOBILE.replace("w1", "w1.0"), "is spelled"),
        (MOBILE.replace("hard_swish", "hard_swich"), "Did you mean hard_swish"),
        (MOBILE.replace("k3e4d2", "k4e4d2"), "'k4e4d2' is not a stage"),
        (MOBILE.replace(" k3e4d2", ""), "has 3 stages"),
        (f"{MOBILE} ", "has 5 stages"),
        ("", "is not a MobileNet-class network"),
    ],
)
def test_a_wrong_mobile_genome_says_which_word(text: str, said: str) -> None:
    """And shows how it is written."""
    with pytest.raises(UsageError, match=said) as caught:
        MobileGenome.parse(text)
    assert caught.value.mend or "spelled" in caught.value.message


@pytest.mark.parametrize("text", ["5-5", "5-5-0", "5-5-100", "05-5-5", "555", "5-5-7 "])
def test_a_wrong_resnet_is_refused(text: str) -> None:
    """Three depths from 1 to 99, written plainly."""
    with pytest.raises(UsageError, match="is not a CIFAR ResNet"):
        CifarResnetGenome.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("|none~0|+|none~0|none~1|", "is not a cell"),
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv~0' is no operation from node 0 to node 1"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "'none~0' is no operation from node 1 to node 2"),
        ("none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "is spelled"),
    ],
)
def test_a_wrong_cell_says_which_edge(text: str, said: str) -> None:
    """With the known operations."""
    with pytest.raises(UsageError, match=said):
        NasBench201Genome.parse(text)
