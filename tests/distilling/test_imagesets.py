"""distilling/imagesets.py: sets put together, and sets that are decoded once."""

from dataclasses import dataclass

import numpy as np
import pytest

from edgekd.core.contracts import UNKNOWN_LABEL, Sample
from edgekd.distilling.imagesets import InMemory, concat


@dataclass
class Arrays:
    """An image set in memory that counts how often it is asked."""

    name: str
    count: int
    label: int = 0
    loads: int = 0

    def __post_init__(self):
        self.samples = [Sample(id=f"{self.name}/{n}", label=self.label, locator=n) for n in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> np.ndarray:
        self.loads += 1
        seed = [*self.name.encode(), range(self.count)[index]]
        return np.random.default_rng(seed).integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)


def test_concat_is_one_after_the_other() -> None:
    """Samples and images of the first set, then of the second, from both ends and as slices."""
    both = concat(Arrays("a", 2, label=3), Arrays("b", 3, label=UNKNOWN_LABEL))
    assert len(both) == len(both.samples) == 5
    assert [sample.id for sample in both.samples] == ["a/0", "a/1", "b/0", "b/1", "b/2"]
    assert [sample.label for sample in both.samples[1:3]] == [3, UNKNOWN_LABEL]
    assert both.samples[-1].id == "b/2"
    np.testing.assert_array_equal(both.load(3), Arrays("b", 3).load(1))
    np.testing.assert_array_equal(both.load(-5), Arrays("a", 2).load(0))
    with pytest.raises(IndexError):
        both.load(5)


def test_concat_with_nothing_is_the_other() -> None:
    """An empty set costs nothing."""
    some, none = Arrays("a", 2), Arrays("b", 0)
    assert concat(some, none) is some
    assert concat(none, some) is some


def test_in_memory_decodes_once() -> None:
    """Every image is loaded once, beforehand, however often it is asked for, and cannot be written to."""
    images = Arrays("a", 4)
    held = InMemory(images, limit_bytes=1 << 20)
    assert images.loads == 4
    first = [held.load(index) for index in (0, 3, -1, 0)]
    assert images.loads == 4
    assert held.complete
    assert held.held_bytes == sum(Arrays("a", 4).load(index).nbytes for index in range(4))
    np.testing.assert_array_equal(first[1], first[2])
    np.testing.assert_array_equal(first[1], Arrays("a", 4).load(3))
    with pytest.raises(ValueError):
        first[0][0, 0] = 0
    with pytest.raises(IndexError):
        held.load(4)
    assert list(held.samples) == images.samples
    assert len(held) == 4


def test_in_memory_keeps_to_its_limit() -> None:
    """What does not fit is loaded each time; the pixels are the same."""
    images = Arrays("a", 4)
    size = images.load(0).nbytes
    held = InMemory(images, limit_bytes=2 * size)
    assert size <= held.held_bytes <= 2 * size
    assert not held.complete
    before = images.loads
    for _ in range(2):
        np.testing.assert_array_equal(held.load(3), Arrays("a", 4).load(3))
    assert images.loads == before + 2


def test_in_memory_without_room_holds_nothing() -> None:
    """A limit of 0 reads every image each time."""
    held = InMemory(Arrays("a", 2), limit_bytes=0)
    assert (held.held_bytes, held.complete, len(held)) == (0, False, 2)
    np.testing.assert_array_equal(held.load(1), Arrays("a", 2).load(1))
