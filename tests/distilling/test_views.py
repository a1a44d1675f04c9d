"""distilling/views.py: views that can be drawn again; teacher and student see one box, colour and erasing are the student's."""

import hashlib
import itertools
import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from edgekd.core.contracts import Sample
from edgekd.distilling import views as views_module
from edgekd.distilling.imagesets import InMemory, concat
from edgekd.distilling.randomness import uniforms
from edgekd.distilling.sampling import EpochSampler
from edgekd.distilling.views import (
    Crops,
    Retouch,
    ViewPlan,
    Views,
    collated,
    geometric,
    in_threads,
    photometric,
    retouch_plan,
    view_plan,
)


@dataclass
class Arrays:
    """An image set in memory."""

    name: str
    count: int
    label: int = 0

    def __post_init__(self):
        self.samples = [Sample(id=f"{self.name}/{n}", label=self.label, locator=n) for n in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> np.ndarray:
        seed = [*self.name.encode(), range(self.count)[index]]
        return np.random.default_rng(seed).integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)


def plan(image_id: str = "a", view: int = 0, image_px: tuple[int, int] = (100, 150), **options: Any) -> ViewPlan:
    return view_plan(image_id, view, image_px=image_px, **{"seed": 0, "crop_area": (0.35, 1.0), "flip": 0.5} | options)


def retouch(image_id: str = "a", epoch: int = 0, **options: Any) -> Retouch:
    return retouch_plan(image_id, epoch, **{"seed": 0, "colour_jitter": 0.0, "erasing": 0.0} | options)


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


def farthest_from_uniform(values: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of values from the uniform distribution on [0, 1]."""
    placed = np.sort(values)
    return float(np.abs(placed - (np.arange(len(placed)) + 0.5) / len(placed)).max())


KS_2000 = 0.0364  # the 1 % point for 2,000 draws


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
        """Areas, log aspects and positions fill their ranges evenly, and half of the views are flipped."""
        plans = [plan(str(n), image_px=(1000, 1000), crop_area=(0.2, 0.6)) for n in range(2000)]
        boxes = np.array([p.box for p in plans], dtype=float)
        wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        for values, low, high in (
            (wide * tall / 1e6, 0.2, 0.6),
            (np.log(wide / tall), math.log(3 / 4), math.log(4 / 3)),
            (boxes[:, 0] / (1000 - wide), 0, 1),
            (boxes[:, 1] / (1000 - tall), 0, 1),
        ):
            assert farthest_from_uniform((values - low) / (high - low)) < KS_2000
        assert 930 < sum(p.flip for p in plans) < 1070

    def test_flip_is_a_share(self):
        """0 never flips, 1 always."""
        assert not any(plan(str(n), flip=0.0).flip for n in range(200))
        assert all(plan(str(n), flip=1.0).flip for n in range(200))

    def test_image_view_and_seed_each_matter(self):
        """Another image, view or seed is another draw; the same is the same."""
        boxes = {plan("a", 0).box, plan("b", 0).box, plan("a", 1).box, plan("a", 0, seed=1).box}
        assert len(boxes) == 4
        assert plan("a", 0) == plan("a", 0)

    def test_the_random_numbers_are_philox(self):
        """The draws are those of an independent Philox keyed by the sha256 of seed, view and id: stable for ever."""
        digest = hashlib.sha256(b"view\n3\n7\ntrain/cat/1.png").digest()
        key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
        raw = philox(key, 41)
        expected = [(value >> 11) / 2**53 for value in raw]
        assert uniforms("view\n3\n7\ntrain/cat/1.png", count=41) == expected
        wide = expected[0] * 0.65 + 0.35
        ratio = math.exp((2 * expected[1] - 1) * math.log(4 / 3))
        target = (round(math.sqrt(wide * 100 * 100 * ratio)), round(math.sqrt(wide * 100 * 100 / ratio)))
        drawn = plan("train/cat/1.png", 7, image_px=(100, 100), seed=3)
        assert max(target) <= 100
        assert (drawn.box[2] - drawn.box[0], drawn.box[3] - drawn.box[1]) == target
        assert drawn.box[:2] == (int(expected[2] * (101 - target[0])), int(expected[3] * (101 - target[1])))
        assert drawn.flip == (expected[40] < 0.5)


class TestRetouch:
    def test_nothing_asked_is_nothing_done(self):
        """Without colour and erasing the plan is the neutral one, whatever the epoch."""
        neutral = [retouch("a", epoch) for epoch in range(5)]
        assert {(p.colour, p.erased) for p in neutral} == {((1.0, 1.0, 1.0), None)}

    def test_factors_fill_their_range_in_every_order(self):
        """Each of the three factors is uniform in 1 - jitter..1 + jitter, and every order of the steps occurs."""
        plans = [retouch(str(n), colour_jitter=0.4) for n in range(2000)]
        for step in range(3):
            factors = np.array([p.colour[step] for p in plans])
            assert farthest_from_uniform((factors - 0.6) / 0.8) < KS_2000
        assert {p.order for p in plans} == set(itertools.permutations(range(3)))

    def test_erased_boxes_keep_to_share_aspect_and_image(self):
        """A quarter of the images is erased, each box inside, of 2 % to a third at an aspect of 0.3 to 10/3."""
        plans = [retouch(str(n), erasing=0.25) for n in range(2000)]
        boxes = np.array([p.erased for p in plans if p.erased is not None])
        assert 430 < len(boxes) < 570
        wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        assert boxes.min() >= 0
        assert boxes.max() <= 1 + 1e-12
        inside = (wide < 1) & (tall < 1)  # a box that would be longer than the image is cut
        assert inside.mean() > 0.9
        for values, low, high in (
            ((wide * tall)[inside], 0.02, 1 / 3),
            ((wide / tall)[inside], 0.3, 10 / 3),
        ):
            assert low - 1e-9 <= values.min() < 1.5 * low
            assert 0.9 * high < values.max() <= high + 1e-9
        assert all(p.erased is not None for p in (retouch(str(n), erasing=1.0) for n in range(50)))

    def test_colour_and_erasing_are_drawn_apart(self):
        """Switching one on does not change the other's draw."""
        both = retouch(colour_jitter=0.4, erasing=1.0)
        assert both.colour == retouch(colour_jitter=0.4).colour
        assert both.erased == retouch(erasing=1.0).erased

    def test_epoch_image_and_seed_each_matter(self):
        """What the student alone sees changes with each of the three."""
        options = {"colour_jitter": 0.4}
        drawn = [retouch("a", 0, **options), retouch("b", 0, **options), retouch("a", 1, **options)]
        assert len({p.colour for p in (*drawn, retouch("a", 0, seed=1, **options))}) == 4


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

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("size_px", [(40, 50), (300, 280)])
    def test_pixels_are_pillows(self, interpolation, size_px):
        """Cropped, then resized with antialiasing as Pillow does it, up to one grey level; smaller and larger."""
        smooth = np.asarray(Image.fromarray(self.IMAGE).resize((280, 200)))
        box = (31, 20, 231, 180)
        ours = geometric(smooth, ViewPlan(box=box, flip=False), size_px=size_px, interpolation=interpolation)
        theirs = np.asarray(Image.fromarray(smooth).crop(box).resize(size_px[::-1], Image.Resampling[interpolation.upper()]))
        assert ours.shape == (*size_px, 3)
        np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)

    def test_colour_factors(self):
        """Brightness scales, contrast pulls to the mean grey, saturation to each pixel's grey; factors of 1 change nothing."""
        image = np.full((4, 4, 3), (100, 50, 200), dtype=np.uint8)
        image[:2] = (20, 30, 40)

        def changed(*colour: float, order=(0, 1, 2)) -> np.ndarray:
            return photometric(image, Retouch(colour=colour, order=order)).astype(int)

        np.testing.assert_array_equal(changed(1.0, 1.0, 1.0), image)
        np.testing.assert_array_equal(changed(0.5, 1.0, 1.0), image // 2)
        # ITU-R 601 luma: 0.299 R + 0.587 G + 0.114 B.
        low, high = 0.299 * 20 + 0.587 * 30 + 0.114 * 40, 0.299 * 100 + 0.587 * 50 + 0.114 * 200
        np.testing.assert_allclose(changed(1.0, 0.0, 1.0), (low + high) / 2, atol=1)
        np.testing.assert_allclose(changed(1.0, 1.0, 0.0)[:2], low, atol=1)
        np.testing.assert_allclose(changed(1.0, 1.0, 0.0)[2:], high, atol=1)
        # Made twice as bright, 200 is cut at 255; pulled to the mean first, it is not: the order counts.
        assert not np.array_equal(changed(2.0, 0.5, 1.0), changed(2.0, 0.5, 1.0, order=(1, 0, 2)))

    def test_an_erased_box_is_grey_and_nothing_else_changes(self):
        """Shares are of the image's width and height; the grey is ImageNet's mean, and the source is not written to."""
        image = np.zeros((20, 10, 3), dtype=np.uint8)
        image.flags.writeable = False
        painted = photometric(image, Retouch(erased=(0.1, 0.5, 0.4, 0.75)))
        expected = np.zeros((20, 10, 3), dtype=np.uint8)
        expected[10:15, 1:4] = (124, 116, 104)
        np.testing.assert_array_equal(painted, expected)
        assert not image.any()


class TestCrops:
    def test_views_go_round_with_the_epochs(self):
        """With `views` epoch e shows view e modulo views; without, every epoch has a view of its own."""
        assert [Crops(seed=0, views=3).view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        assert [Crops(seed=0).view(epoch) for epoch in (0, 7, 1000)] == [0, 7, 1000]

    def test_sizes_are_cut_from_one_box(self):
        """Each size of one call is the same box and flip of the plan, resized on its own."""
        image = Arrays("a", 1).load(0)
        crops = Crops(seed=5, crop_area=(0.2, 0.5), flip=0.5, interpolation="bilinear")
        drawn = view_plan("a/0", 2, image_px=(40, 60), seed=5, crop_area=(0.2, 0.5), flip=0.5)
        for cut, size in zip(crops.cut(image, "a/0", 2, sizes_px=((16, 16), (24, 30))), ((16, 16), (24, 30)), strict=True):
            np.testing.assert_array_equal(cut, geometric(image, drawn, size_px=size, interpolation="bilinear"))

    def test_a_batch_is_its_views_one_by_one(self):
        """What a teacher is shown beforehand is, bit for bit, what an item of training holds."""
        images, crops = Arrays("a", 9), Crops(seed=1)
        batch_BCHW = crops.batch(images, [7, 0, 7], 3, size_px=(16, 20))
        assert (tuple(batch_BCHW.shape), batch_BCHW.dtype) == ((3, 3, 16, 20), torch.uint8)
        made = Views(images, size_px=8, crops=crops, teachers_px=((16, 20),))
        for shown, index in zip(batch_BCHW, (7, 0, 7), strict=True):
            assert torch.equal(shown, made[index, 3][4])

    def test_the_facts_name_what_the_pixels_depend_on(self):
        """Seed, area, flip, interpolation and size each change them; the number of views does not, it only repeats."""
        options: dict[str, Any] = {"seed": 0, "crop_area": (0.35, 1.0), "flip": 0.5, "interpolation": "bicubic"}
        facts = Crops(**options).facts((32, 32))
        changes = ({"seed": 1}, {"crop_area": (0.5, 1.0)}, {"flip": 0.0}, {"interpolation": "bilinear"})
        others = [Crops(**options | change).facts((32, 32)) for change in changes]
        assert facts not in [*others, Crops(**options).facts((32, 48))]
        assert Crops(**options, views=4).facts((32, 32)) == facts


def views(images: Any, size_px: Any = 16, *, seed: int = 0, crops: Crops | None = None, **more: Any) -> Views:
    return Views(images, size_px=size_px, crops=crops or Crops(seed=seed), seed=seed, **more)


class TestViews:
    def test_an_item(self):
        """A view is a uint8 CHW tensor that lies in memory as HWC, the label, the index and the view's number."""
        image, label, index, view = views(Arrays("a", 3, label=5), 24)[2, 7]
        assert (image.dtype, tuple(image.shape), label, index, view) == (torch.uint8, (3, 24, 24), 5, 2, 7)
        assert image.permute(1, 2, 0).is_contiguous()
        assert image.float().std() > 0
        assert tuple(views(Arrays("a", 3), (16, 24))[0, 0][0].shape) == (3, 16, 24)

    def test_collated(self):
        """A batch holds the items' images in a layout that convolutions read fastest, and their numbers as int64."""
        items = views(Arrays("a", 3, label=5), 24).__getitems__([(2, 7), (0, 1)])
        image_BCHW, label_B, index_B, view_B = collated(items)
        assert (image_BCHW.dtype, tuple(image_BCHW.shape)) == (torch.uint8, (2, 3, 24, 24))
        assert image_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(image, item[0]) for image, item in zip(image_BCHW, items, strict=True))
        assert (label_B.tolist(), index_B.tolist(), view_B.tolist()) == ([5, 5], [2, 0], [7, 1])
        assert {label_B.dtype, index_B.dtype, view_B.dtype} == {torch.int64}

    def test_a_view_is_its_plan(self):
        """The pixels are those of geometry, by the crops' seed and view, then colour, by the run's seed and epoch."""
        images = Arrays("a", 2)
        crops = Crops(seed=4, views=2, crop_area=(0.5, 0.9), flip=0.2, interpolation="bilinear")
        made = Views(images, size_px=20, crops=crops, seed=9, colour_jitter=0.3, erasing=0.5)
        image = images.load(1)
        drawn = view_plan("a/1", 1, image_px=(41, 60), seed=4, crop_area=(0.5, 0.9), flip=0.2)
        touched = retouch_plan("a/1", 3, seed=9, colour_jitter=0.3, erasing=0.5)
        expected = photometric(geometric(image, drawn, size_px=(20, 20), interpolation="bilinear"), touched)
        item = made[1, 3]
        np.testing.assert_array_equal(item[0].permute(1, 2, 0).numpy(), expected)
        assert item[3] == 1

    def test_geometry_depends_on_crop_seed_id_and_view_alone(self):
        """The run's seed moves no crop, the crops' seed does, and epochs repeat views modulo `views`."""
        images = Arrays("a", 2)
        one, other = (Views(images, size_px=16, crops=Crops(seed=3, views=2), seed=seed) for seed in (0, 1))
        moved = Views(images, size_px=16, crops=Crops(seed=4, views=2), seed=0)
        for epoch in range(4):
            assert torch.equal(one[0, epoch][0], other[0, epoch][0])
            assert torch.equal(one[0, epoch][0], one[0, epoch % 2][0])
            assert one[0, epoch][3] == epoch % 2
            assert not torch.equal(one[0, epoch][0], moved[0, epoch][0])
        assert not torch.equal(one[0, 0][0], one[0, 1][0])

    @pytest.mark.parametrize("change", [{"colour_jitter": 0.4}, {"erasing": 1.0}])
    def test_colour_and_erasing_are_the_students_alone_and_change_with_the_epoch(self, change):
        """A repeated view looks different to the student, while every teacher's crop of it stays as it was."""
        images, sizes = Arrays("a", 2), ((16, 16), (24, 24))
        crops = Crops(seed=3, views=2)
        plain = Views(images, size_px=16, crops=crops, teachers_px=sizes)
        touched = Views(images, size_px=16, crops=crops, teachers_px=sizes, **change)
        for epoch in range(4):
            own, _, _, _, *teachers = touched[1, epoch]
            expected = plain[1, epoch]
            assert not torch.equal(own, expected[0])
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(teachers, expected[4:], strict=True))
            assert torch.equal(expected[4], expected[0])  # the same size, the same box: the same pixels
        assert not torch.equal(touched[1, 0][0], touched[1, 2][0])
        assert torch.equal(touched[1, 0][4], touched[1, 2][4])

    def test_the_order_of_asking_does_not_matter(self):
        """Views are the same forwards, backwards, after pickling, and among other images."""
        made = views(Arrays("a", 4), seed=1, colour_jitter=0.2)
        keys = [(index, view) for index in range(4) for view in range(3)]
        forwards = {key: made[key][0] for key in keys}
        again = pickle.loads(pickle.dumps(made))
        more = views(concat(Arrays("other", 2), Arrays("a", 4)), seed=1, colour_jitter=0.2)
        for index, view in reversed(keys):
            assert torch.equal(again[index, view][0], forwards[index, view])
            assert torch.equal(more[index + 2, view][0], forwards[index, view])

    def test_several_at_once_are_the_items_one_by_one(self, monkeypatch):
        """`__getitems__` on several threads equals `__getitem__`, item for item and in order."""
        monkeypatch.setattr(views_module, "usable_cores", lambda: 3)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        made = views(Arrays("a", 5, label=2), seed=1, colour_jitter=0.2, erasing=0.5, teachers_px=((24, 24),))
        keys = [(index, epoch) for epoch in range(3) for index in (4, 0, 2, 1, 3)]
        for item, key in zip(made.__getitems__(keys), keys, strict=True):
            expected = made[key]
            assert item[1:4] == expected[1:4]
            assert torch.equal(item[0], expected[0])
            assert torch.equal(item[4], expected[4])

    def test_threads_keep_the_order_and_raise_what_went_wrong(self, monkeypatch):
        """Results come back in the items' order; an image that cannot be read is not swallowed."""
        monkeypatch.setattr(views_module, "usable_cores", lambda: 4)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        assert in_threads(lambda n: n * n, list(range(103))) == [n * n for n in range(103)]
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda n: 1 // n, [1, 2, 0, 3])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_give_the_same_batches(self, workers):
        """The loader's batches are the sampler's views in the sampler's order, whoever draws them."""
        made = views(Arrays("a", 5, label=1), seed=1, teachers_px=((8, 8),))
        sampler = EpochSampler(5, seed=3, samples=12)
        batches = list(DataLoader(made, sampler=sampler, batch_size=4, num_workers=workers))
        images, labels, indices, numbers, shown = (torch.cat(column) for column in zip(*batches, strict=True))
        assert list(zip(indices.tolist(), numbers.tolist(), strict=True)) == list(sampler)
        assert labels.tolist() == [1] * 12
        assert torch.equal(images, torch.stack([made[key][0] for key in sampler]))
        assert torch.equal(shown, torch.stack([made[key][4] for key in sampler]))

    def test_views_of_images_in_memory_are_the_same(self):
        """Holding images in memory, read-only, changes no view."""
        plain, held = (
            views(images, seed=2, colour_jitter=0.3, erasing=1.0)
            for images in (Arrays("a", 3), InMemory(Arrays("a", 3), limit_bytes=1 << 20))
        )
        for index in range(3):
            assert torch.equal(plain[index, 1][0], held[index, 1][0])
