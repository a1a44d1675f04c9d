"""distilling/sampling.py: an order that can be taken up again, and batches with a fixed share of labelled images."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.distilling.sampling import EpochSampler, SharedSampler


class TestEpochSampler:
    def test_every_epoch_goes_once_through_all(self):
        """Each epoch is a permutation of its own, and comes with its number."""
        drawn = list(EpochSampler(50, seed=0, samples=150))
        for epoch in range(3):
            part = drawn[50 * epoch : 50 * (epoch + 1)]
            assert sorted(index for index, _ in part) == list(range(50))
            assert {number for _, number in part} == {epoch}
        assert [index for index, _ in drawn[:50]] != [index for index, _ in drawn[50:100]] != list(range(50))

    def test_the_order_is_that_of_philox(self):
        """An epoch's order sorts Philox numbers keyed by the sha256 of seed and epoch."""
        digest = hashlib.sha256(b"epoch\n9\n2").digest()
        key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
        raw = np.random.Philox(key=np.array(key, dtype=np.uint64)).random_raw(20).tolist()
        assert EpochSampler(20, seed=9).order(2).tolist() == sorted(range(20), key=raw.__getitem__)

    @given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
    def test_it_goes_on_where_it_was(self, images, samples, start):
        """From any position, the rest is what it would have been; the length is what is left."""
        whole = list(EpochSampler(images, seed=5, samples=samples))
        rest = EpochSampler(images, seed=5, samples=samples, start=start)
        assert list(rest) == whole[start:]
        assert len(rest) == len(whole[start:])
        assert len(whole) == samples

    def test_without_an_end(self):
        """An endless sampler goes on for ever and has no length."""
        endless = EpochSampler(3, seed=0)
        assert list(itertools.islice(endless, 10)) == list(EpochSampler(3, seed=0, samples=10))
        with pytest.raises(TypeError, match="never ends"):
            len(endless)

    def test_the_seed_decides(self):
        """Another seed, another order."""
        assert list(EpochSampler(50, seed=1, samples=50)) != list(EpochSampler(50, seed=2, samples=50))

    def test_nothing_to_sample_from(self):
        """An empty set is refused instead of looping for ever."""
        with pytest.raises(ValueError, match="nothing to sample"):
            EpochSampler(0, seed=0)


def shared(**changes: object) -> SharedSampler:
    options = {"labelled": 3, "others": 7, "labelled_share": 0.25, "batch": 8, "seed": 1, "samples": 40}
    return SharedSampler(**options | changes)  # type: ignore[arg-type]


class TestSharedSampler:
    @pytest.mark.parametrize(
        ("share", "batch", "labelled"), [(0.25, 8, 2), (0.5, 8, 4), (0.01, 8, 1), (0.999, 8, 7), (0.3, 10, 3)]
    )
    def test_every_batch_holds_the_same_number_of_labelled_images(self, share, batch, labelled):
        """The share of the batch, rounded, but at least one labelled image and one other."""
        drawn = list(shared(labelled_share=share, batch=batch, samples=5 * batch))
        for start in range(0, 5 * batch, batch):
            assert sum(index < 3 for index, _ in drawn[start : start + batch]) == labelled

    def test_both_kinds_go_through_epochs_of_their_own(self):
        """In 20 batches of 2 + 6 each labelled image is seen 13 or 14 times, each other one 17 or 18, in whole epochs."""
        drawn = list(shared(samples=160))
        for kind, count in ((range(3), 40), (range(3, 10), 120)):
            seen = [pair for pair in drawn if pair[0] in kind]
            assert len(seen) == count
            assert [epoch for _, epoch in seen] == [position // len(kind) for position in range(count)]
            for epoch in range(count // len(kind)):
                assert sorted(index for index, number in seen if number == epoch) == list(kind)
        assert set(Counter(index for index, _ in drawn if index < 3).values()) == {13, 14}

    @given(st.integers(0, 60))
    def test_it_ends_after_so_many(self, samples):
        """Also in the middle of a batch; its length says so, and a longer one begins the same way."""
        sampler = shared(samples=samples)
        assert len(sampler) == len(list(sampler)) == samples
        assert list(sampler) == list(shared(samples=64))[:samples]

    def test_it_can_be_gone_through_again(self):
        """A second pass gives the same pairs, another seed others."""
        sampler = shared()
        assert list(sampler) == list(sampler)
        assert list(sampler) != list(shared(seed=2))
