"""Which image comes when: (index, epoch) pairs in seeded order."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from edgekd.distilling.randomness import raw


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch): every epoch goes once through all images in an order of its own.

    `samples` ends it after so many in all (None: never), `start` skips the first so many. The sequence is a pure function of
    the seed, so a stopped run goes on where it was.
    """

    def __init__(self, images: int, *, seed: int, samples: int | None = None, start: int = 0) -> None:
        if images < 1:
            raise ValueError("there is nothing to sample from")
        self.images = images
        self.seed = seed
        self.samples = samples
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start
        while self.samples is None or position < self.samples:
            epoch, first = divmod(position, self.images)
            last = self.images if self.samples is None else min(self.images, first + self.samples - position)
            for index in self.order(epoch)[first:last].tolist():
                yield index, epoch
            position += last - first

    def __len__(self) -> int:
        """Return how many are left from `start`; an endless sampler has no length."""
        if self.samples is None:
            raise TypeError("this sampler never ends")
        return max(0, self.samples - self.start)

    def order(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.intp]]":
        """Return the permutation of an epoch."""
        return np.argsort(raw(f"epoch\n{self.seed}\n{epoch}", count=self.images), kind="stable")


class SharedSampler(Sampler[tuple[int, int]]):
    """Yields (index, epoch) so that every batch holds the same number of labelled images, whose indices are the first ones.

    The labelled images and the others each go through epochs of their own.
    """

    def __init__(self, *, labelled: int, others: int, labelled_share: float, batch: int, seed: int, samples: int) -> None:
        self.labelled = labelled
        self.labelled_per_batch = min(batch - 1, max(1, round(labelled_share * batch)))
        self.batch = batch
        self.samples = samples
        self._streams = (EpochSampler(labelled, seed=seed), EpochSampler(others, seed=seed))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        of_labelled, of_others = map(iter, self._streams)
        for start in range(0, self.samples, self.batch):
            size = min(self.batch, self.samples - start)
            known = min(size, self.labelled_per_batch)
            yield from itertools.islice(of_labelled, known)
            for index, epoch in itertools.islice(of_others, size - known):
                yield index + self.labelled, epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples
