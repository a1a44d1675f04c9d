"""distilling/views.py: views that can be drawn again, an order that can be taken up again, sets put together."""

import hashlib
import itertools
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from edgekd.core.contracts import UNKNOWN_LABEL, Sample
from edgekd.distilling import views as views_module
from edgekd.distilling.views import EpochSampler, InMemory, ViewPlan, Views, concat, geometric, photometric, view_plan


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


def plan(image_id: str = "a", view: int = 0, image_px: tuple[int, int] = (100, 150), **options) -> ViewPlan:
    return view_plan(image_id, view, image_px=image_px, **{"seed": 0, "crop_area": (0.35, 1.0), "flip": 0.5} | options)


def philox(key: tuple[int, int], count: int) -> list[int]:
    """Return the first raw outputs of Philox4x64-10 (Salmon et al. 2011), counter from 1, as NumPy runs it."""
    mask, out = (1 << 64) - 1, []
    for counter in itertools.count(1):
        c, k = [counter, 0, 0, 0], list(key)
        for _ in range(10):
            high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 1 << 64)
            high1, low1 = divmod(0xCA5A826395121157 * c[2], 1 << 64)
            c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        out += c
        if len(out) >= count:
            return out[:count]
    raise AssertionError


class TestPlan:
    @given(st.integers(0, 1000), st.integers(2, 300), st.integers(2, 300), st.floats(0.05, 1.0))
    def test_the_crop_keeps_to_area_ratio_and_image(self, view, height, width, low):
        """Each box lies inside; where it is no fallback its area and aspect are in range, up to rounding to pixels."""
        left, top, right, bottom = plan(view=view, image_px=(height, width), crop_area=(low, 1.0)).box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        wide, tall = right - left, bottom - top
        if (wide, tall) == (min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))):
            return
        assert (wide + 0.5) * (tall + 0.5) >= low * height * width
        assert (wide + 0.5) / (tall - 0.5) >= 3 / 4
        assert (wide - 0.5) / (tall + 0.5) <= 4 / 3

    def test_a_long_strip_gives_its_centre(self):
        """No crop of 35 % fits 4:3 into 1000 x 10; the largest central one, 13 x 10, is taken, as in torchvision."""
        assert plan(image_px=(10, 1000)).box == (493, 0, 506, 10)
        assert plan(image_px=(1000, 10)).box == (0, 493, 10, 506)
        assert plan(image_px=(1, 1)).box == (0, 0, 1, 1)

    def test_the_draws_are_uniform(self):
        """Areas, log aspects, positions, flips and factors fill their ranges evenly."""
        plans = [plan(str(n), image_px=(1000, 1000), crop_area=(0.2, 0.6), colour_jitter=0.4) for n in range(2000)]
        boxes = np.array([p.box for p in plans], dtype=float)
        wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        for values, low, high in (
            (wide * tall / 1e6, 0.2, 0.6),
            (np.log(wide / tall), math.log(3 / 4), math.log(4 / 3)),
            (boxes[:, 0] / (1000 - wide), 0, 1),
            (boxes[:, 1] / (1000 - tall), 0, 1),
            *((np.array([p.colour[channel] for p in plans]), 0.6, 1.4) for channel in range(3)),
        ):
            # Kolmogorov-Smirnov distance; 0.0364 is the 1 % point for 2,000 draws.
            placed = np.sort((values - low) / (high - low))
            assert np.abs(placed - (np.arange(2000) + 0.5) / 2000).max() < 0.0364
        assert 930 < sum(p.flip for p in plans) < 1070
        assert {p.order for p in plans} == set(itertools.permutations(range(3)))

    def test_flip_is_a_share(self):
        """0 never flips, 1 always."""
        assert not any(plan(str(n), flip=0.0).flip for n in range(200))
        assert all(plan(str(n), flip=1.0).flip for n in range(200))

    def test_colour_does_not_move_the_crop(self):
        """The geometry of a view is the same with and without colour, so that colour can be left to the student."""
        plain, coloured = plan(), plan(colour_jitter=0.8)
        assert (plain.box, plain.flip) == (coloured.box, coloured.flip)
        assert plain.colour == (1.0, 1.0, 1.0)
        assert coloured.colour != plain.colour

    def test_image_view_and_seed_each_matter(self):
        """Another image, view or seed is another draw; the same is the same."""
        boxes = {plan("a", 0).box, plan("b", 0).box, plan("a", 1).box, plan("a", 0, seed=1).box}
        assert len(boxes) == 4
        assert plan("a", 0) == plan("a", 0)

    def test_the_random_numbers_are_philox(self):
        """The draws are those of an independent Philox keyed by the sha256 of seed, view and id: stable for ever."""
        digest = hashlib.sha256(b"view\n3\n7\ntrain/cat/1.png").digest()
        key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
        raw = philox(key, 45)
        expected = [(value >> 11) / 2**53 for value in raw]
        assert views_module._uniforms("view\n3\n7\ntrain/cat/1.png", count=45) == expected
        wide = expected[0] * 0.65 + 0.35
        ratio = math.exp((2 * expected[1] - 1) * math.log(4 / 3))
        target = (round(math.sqrt(wide * 100 * 100 * ratio)), round(math.sqrt(wide * 100 * 100 / ratio)))
        box = plan("train/cat/1.png", 7, image_px=(100, 100), seed=3).box
        assert max(target) <= 100
        assert (box[2] - box[0], box[3] - box[1]) == target
        assert box[:2] == (int(expected[2] * (101 - target[0])), int(expected[3] * (101 - target[1])))


class TestPixels:
    IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)

    def test_a_crop_at_its_own_size_is_the_crop(self):
        """Nothing is resampled when the box has the size that is asked for; flipping mirrors left and right."""
        box = ViewPlan(box=(10, 5, 42, 37), flip=False)
        np.testing.assert_array_equal(
            geometric(self.IMAGE, box, size_px=(32, 32), interpolation="bicubic"), self.IMAGE[5:37, 10:42]
        )
        mirrored = geometric(self.IMAGE, ViewPlan(box=box.box, flip=True), size_px=(32, 32), interpolation="bicubic")
        np.testing.assert_array_equal(mirrored, self.IMAGE[5:37, 10:42][:, ::-1])

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_one_step_equals_crop_then_resize_inside(self, interpolation):
        """Away from the crop's edge the pixels are those of cropping first; downsizing is antialiased."""
        smooth = np.asarray(Image.fromarray(self.IMAGE).resize((280, 200)))
        box = (31, 20, 231, 180)
        ours = geometric(smooth, ViewPlan(box=box, flip=False), size_px=(40, 50), interpolation=interpolation)
        theirs = np.asarray(Image.fromarray(smooth).crop(box).resize((50, 40), Image.Resampling[interpolation.upper()]))
        assert ours.shape == (40, 50, 3)
        np.testing.assert_allclose(ours[3:-3, 3:-3].astype(int), theirs[3:-3, 3:-3].astype(int), atol=1)

    def test_colour_factors(self):
        """Brightness scales, contrast pulls to the mean grey, saturation to each pixel's grey; factors of 1 change nothing."""
        image = np.full((4, 4, 3), (100, 50, 200), dtype=np.uint8)
        image[:2] = (20, 30, 40)

        def changed(*colour: float, order=(0, 1, 2)) -> np.ndarray:
            return photometric(image, ViewPlan(box=(0, 0, 4, 4), flip=False, colour=colour, order=order)).astype(int)

        np.testing.assert_array_equal(changed(1.0, 1.0, 1.0), image)
        np.testing.assert_array_equal(changed(0.5, 1.0, 1.0), image // 2)
        # ITU-R 601 luma: 0.299 R + 0.587 G + 0.114 B.
        low, high = 0.299 * 20 + 0.587 * 30 + 0.114 * 40, 0.299 * 100 + 0.587 * 50 + 0.114 * 200
        np.testing.assert_allclose(changed(1.0, 0.0, 1.0), (low + high) / 2, atol=1)
        np.testing.assert_allclose(changed(1.0, 1.0, 0.0)[:2], low, atol=1)
        np.testing.assert_allclose(changed(1.0, 1.0, 0.0)[2:], high, atol=1)
        # Made twice as bright, 200 is cut at 255; pulled to the mean first, it is not: the order counts.
        assert not np.array_equal(changed(2.0, 0.5, 1.0), changed(2.0, 0.5, 1.0, order=(1, 0, 2)))


class TestViews:
    def test_an_item(self):
        """A view is a uint8 CHW tensor of its own memory, the label, the index and the view's number."""
        image, label, index, view = Views(Arrays("a", 3, label=5), size_px=24, seed=0)[2, 7]
        assert (image.dtype, tuple(image.shape), label, index, view) == (torch.uint8, (3, 24, 24), 5, 2, 7)
        assert image.is_contiguous()
        assert image.float().std() > 0
        assert tuple(Views(Arrays("a", 3), size_px=(16, 24), seed=0)[0, 0][0].shape) == (3, 16, 24)

    def test_a_view_is_its_plan(self):
        """The pixels are those of geometry, then colour, of the plan for the image's id."""
        images = Arrays("a", 2)
        made = Views(images, size_px=20, seed=4, colour_jitter=0.3, crop_area=(0.5, 0.9), flip=0.2, interpolation="bilinear")
        image = images.load(1)
        drawn = view_plan("a/1", 3, image_px=(41, 60), seed=4, crop_area=(0.5, 0.9), flip=0.2, colour_jitter=0.3)
        expected = photometric(geometric(image, drawn, size_px=(20, 20), interpolation="bilinear"), drawn)
        np.testing.assert_array_equal(made[1, 3][0].permute(1, 2, 0).numpy(), expected)

    def test_the_order_of_asking_does_not_matter(self):
        """Views are the same forwards, backwards, after pickling, and among other images."""
        made = Views(Arrays("a", 4), size_px=16, seed=1)
        keys = [(index, view) for index in range(4) for view in range(3)]
        forwards = {key: made[key][0] for key in keys}
        again = pickle.loads(pickle.dumps(made))
        more = Views(concat(Arrays("other", 2), Arrays("a", 4)), size_px=16, seed=1)
        for index, view in reversed(keys):
            assert torch.equal(again[index, view][0], forwards[index, view])
            assert torch.equal(more[index + 2, view][0], forwards[index, view])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_give_the_same_batches(self, workers):
        """The loader's batches are the sampler's views in the sampler's order, whoever draws them."""
        made = Views(Arrays("a", 5, label=1), size_px=16, seed=1)
        sampler = EpochSampler(5, seed=3, samples=12)
        batches = list(DataLoader(made, sampler=sampler, batch_size=4, num_workers=workers))
        images, labels, indices, numbers = (torch.cat(column) for column in zip(*batches, strict=True))
        assert list(zip(indices.tolist(), numbers.tolist(), strict=True)) == list(sampler)
        assert labels.tolist() == [1] * 12
        assert torch.equal(images, torch.stack([made[key][0] for key in sampler]))


class TestEpochSampler:
    def test_every_epoch_goes_once_through_all(self):
        """Each epoch is a permutation of its own, and the view is the epoch's number."""
        drawn = list(EpochSampler(50, seed=0, samples=150))
        for epoch in range(3):
            part = drawn[50 * epoch : 50 * (epoch + 1)]
            assert sorted(index for index, _ in part) == list(range(50))
            assert {view for _, view in part} == {epoch}
        assert [index for index, _ in drawn[:50]] != [index for index, _ in drawn[50:100]] != list(range(50))

    def test_the_order_is_that_of_philox(self):
        """An epoch's order sorts independent Philox numbers keyed by seed and epoch."""
        digest = hashlib.sha256(b"epoch\n9\n2").digest()
        raw = philox((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")), 20)
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

    def test_views_can_repeat(self):
        """With `views`, numbers go round while the orders go on."""
        drawn = list(EpochSampler(4, seed=0, samples=16, views=2))
        assert [view for _, view in drawn[::4]] == [0, 1, 0, 1]
        assert drawn[:4] != drawn[8:12]

    def test_the_seed_decides(self):
        """Another seed, another order."""
        assert list(EpochSampler(50, seed=1, samples=50)) != list(EpochSampler(50, seed=2, samples=50))

    def test_nothing_to_sample_from(self):
        """An empty set is refused instead of looping for ever."""
        with pytest.raises(ValueError, match="nothing to sample"):
            EpochSampler(0, seed=0)


class TestSets:
    def test_concat_is_one_after_the_other(self):
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

    def test_concat_with_nothing_is_the_other(self):
        """An empty set costs nothing."""
        some, none = Arrays("a", 2), Arrays("b", 0)
        assert concat(some, none) is some
        assert concat(none, some) is some

    def test_in_memory_decodes_once(self):
        """Every image is loaded once, however often it is asked for, and cannot be written to."""
        images = Arrays("a", 4)
        held = InMemory(images, limit_bytes=1 << 20)
        first = [held.load(index) for index in (0, 3, -1, 0)]
        assert images.loads == 4
        assert held.held_bytes == sum(Arrays("a", 4).load(index).nbytes for index in range(4))
        np.testing.assert_array_equal(first[1], first[2])
        with pytest.raises(ValueError):
            first[0][0, 0] = 0
        assert list(held.samples) == images.samples

    def test_in_memory_keeps_to_its_limit(self):
        """What does not fit is loaded each time; the pixels are the same."""
        images = Arrays("a", 4)
        size = images.load(0).nbytes
        held = InMemory(images, limit_bytes=2 * size)
        assert size <= held.held_bytes <= 2 * size
        before = images.loads
        for _ in range(2):
            np.testing.assert_array_equal(held.load(3), Arrays("a", 4).load(3))
        assert images.loads == before + 2

    def test_views_of_images_in_memory_are_the_same(self):
        """Holding images in memory changes no view."""
        plain, held = (Views(s, size_px=16, seed=2) for s in (Arrays("a", 3), InMemory(Arrays("a", 3), limit_bytes=1 << 20)))
        for index in range(3):
            assert torch.equal(plain[index, 1][0], held[index, 1][0])
