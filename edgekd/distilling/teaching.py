"""Teachers at work on one set of training images: asked once, with the answers kept, or in every step.

Axes: B batch, C channels, H height, W width, D feature width, K classes, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from edgekd.core.console import Console
from edgekd.core.contracts import FeatureSpec, FrozenModel, ImageSet, Source, Teacher
from edgekd.core.errors import UsageError
from edgekd.core.host import cache_folder
from edgekd.core.images import prepare_batch
from edgekd.core.plan import Cache
from edgekd.core.records import InputContract, TeacherFacts
from edgekd.distilling import cache
from edgekd.distilling.evaluation import collect, labels_of
from edgekd.distilling.feature_store import FeatureStore
from edgekd.distilling.probes import PROBE_TAP, LinearProbe, ProbedTeacher, knn_top1
from edgekd.distilling.views import Crops

_ONLINE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What all teachers of a run have in common: the images, how they are cut, which answers are kept, and where."""

    source: Source
    images: ImageSet
    images_seen: int
    crops: Crops
    cache: Cache
    device: torch.device
    console: Console

    @property
    def views(self) -> int:
        """Return how many views of each image are kept; 0: none, the teachers run in every step."""
        return self.cache.views or 0

    @property
    def root(self) -> Path:
        """Return the folder of kept answers."""
        if self.cache.folder is not None:
            return self.cache.folder
        home = cache_folder()
        if home is None:
            raise UsageError(
                "no folder is known to keep the teachers' answers in (no home folder)",
                mend="set EDGEKD_CACHE or `cache.folder`, or `cache.views: 0` to ask the teachers in every step",
            )
        return home / "teachers"


class Teaching:
    """One teacher, loaded, probed on the labelled images, and ready to answer for any view of the training images."""

    def __init__(self, part: Teacher, taps: tuple[str, ...], lesson: Lesson) -> None:
        self.lesson = lesson
        self.taps = taps
        self.frozen = part.load().to(lesson.device)
        if "probe_logits" in taps and not len(lesson.source.train()):
            raise UsageError("a probe of the teacher needs labelled images, and there are none")
        self.model: FrozenModel = self.frozen
        self._store = self._kept() if lesson.views else None
        self.model, self.facts = self._probed(part)

    @property
    def online(self) -> bool:
        """Say whether the teacher runs in every step and has to see the images."""
        return self._store is None

    def spec(self) -> FeatureSpec:
        """Return the shapes of the taps."""
        return self.model.spec(self.taps)

    def answer(self, index_B: Tensor, view_B: Tensor, shown_BCHW: Tensor | None) -> dict[str, Tensor]:
        """Return the taps for these views: looked up, or computed from the uint8 images shown."""
        device = self.lesson.device
        if self._store is None:
            assert shown_BCHW is not None
            return self.model.features(shown_BCHW.to(device).float().div_(255), self.taps)
        mean = self.lesson.cache.answers == "mean"
        found = self._store.mean(index_B) if mean else self._store.features(index_B, view_B)
        return self._derived({tap: value.to(device) for tap, value in found.items()})

    def ask(self, indices: Sequence[int], view: int) -> dict[str, Tensor]:
        """Return the taps for one view of several images, cutting them if the answers are not kept."""
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        view_B = torch.full_like(index_B, view)
        shown = None
        if self._store is None:
            shown = self.lesson.crops.batch(self.lesson.images, indices, view, size_px=self.frozen.size_px)
        return self.answer(index_B, view_B, shown)

    def rows(self, count: int) -> dict[str, Tensor]:
        """Return at most `count` answers to views of training images, on the CPU: what a method fits its statistics on."""
        images = len(self.lesson.images)
        if self.online:  # for the statistics alone the teacher must not work more than a part of what training asks
            count = min(count, max(images, self.lesson.images_seen // 4))
        views = 1 if self.lesson.cache.answers == "mean" else self.lesson.views or -(-count // images)
        chunks: dict[str, list[Tensor]] = {}
        left = min(count, views * images)
        for view in range(views):
            # Spread over all images, lest a small count see the first classes alone.
            order = torch.linspace(0, images - 1, min(images, left)).round().to(torch.int64)
            for index_B in order.split(_ONLINE_BATCH):
                for tap, value in self.ask(index_B.tolist(), view).items():
                    chunks.setdefault(tap, []).append(value.cpu())
            left -= len(order)
            if left == 0:
                break
        return {tap: torch.cat(values) for tap, values in chunks.items()}

    def whole(self, images: ImageSet, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the taps of whole images, on the CPU, kept or computed anew."""
        lesson = self.lesson
        contract = _whole_contract(self.frozen)
        if not lesson.views:
            return collect(lambda x_BCHW: self.frozen.features(x_BCHW, taps), images, contract, device=lesson.device)

        def batch(indices: Sequence[int], _view: int) -> Tensor:
            return torch.from_numpy(prepare_batch(images, indices, contract))

        # Counted up when a teacher comes to compute otherwise, if only in the last bit: a run made anew has to end alike.
        cut = cache.Cut(facts={"kind": "whole", "answered_by": 2, **contract.model_dump(mode="json")}, views=1, batch=batch)
        return self._fill(images, cut, taps).features(torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64))

    def _kept(self) -> FeatureStore:
        lesson, size_px = self.lesson, self.frozen.size_px
        crops = lesson.crops
        shapes = self.frozen.spec(tuple(_stored(tap) for tap in self.taps)).shapes
        if lesson.cache.answers == "mean" and (maps := [tap for tap, shape in shapes.items() if len(shape) > 1]):
            raise UsageError(f"`answers: mean` averages vectors, and `{maps[0]}` says where things are, which crops move about")

        def batch(indices: Sequence[int], view: int) -> Tensor:
            return crops.batch(lesson.images, indices, view, size_px=size_px)

        cut = cache.Cut(facts=crops.facts(size_px), views=lesson.views, batch=batch)
        return self._fill(lesson.images, cut, tuple(dict.fromkeys(_stored(tap) for tap in self.taps)))

    def _fill(self, images: ImageSet, cut: cache.Cut, taps: tuple[str, ...]) -> FeatureStore:
        lesson = self.lesson
        return cache.fill(
            self.frozen,
            images,
            cut,
            taps=taps,
            dtype=lesson.cache.dtype,
            root=lesson.root,
            device=lesson.device,
            console=lesson.console,
            precision=self.frozen.precision,
        )

    def _labelled_crops(self) -> Tensor:
        """Return the pooled features of the first view of each labelled image; these are the first of the images."""
        found = []
        for index_B in torch.arange(len(self.lesson.source.train())).split(_ONLINE_BATCH):
            if self._store is not None:
                found.append(self._store.features(index_B, torch.zeros_like(index_B))[PROBE_TAP])
                continue
            crops = self.lesson.crops.batch(self.lesson.images, index_B.tolist(), 0, size_px=self.frozen.size_px)
            found.append(self.frozen.features(crops.to(self.lesson.device).float().div_(255), (PROBE_TAP,))[PROBE_TAP].cpu())
        return torch.cat(found)

    def _derived(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        if "probe_logits" in self.taps:
            kept["probe_logits"] = cast(ProbedTeacher, self.model).probe(kept[PROBE_TAP])
        return {tap: kept[tap] for tap in self.taps}

    def _probed(self, part: Teacher) -> tuple[FrozenModel, TeacherFacts]:
        source, frozen = self.lesson.source, self.frozen
        train, val = source.train(), source.val()
        probe_top1 = knn = None
        model = frozen
        if len(train):
            self.lesson.console.say(f"{frozen.name}: probing its features on {len(train)} labelled images")
            seen_ND = self.whole(train, (PROBE_TAP,))[PROBE_TAP]
            held_MD = self.whole(val, (PROBE_TAP,))[PROBE_TAP]
            fitted_ND, label_N = seen_ND, labels_of(train)
            if "probe_logits" in self.taps:  # it will be asked about crops, and answers better for having seen some
                fitted_ND, label_N = torch.cat([seen_ND, self._labelled_crops()]), label_N.repeat(2)
            probe = LinearProbe.fit(fitted_ND, label_N, classes=len(source.classes))
            probe_top1 = float((probe(held_MD).argmax(dim=1) == labels_of(val)).double().mean())
            knn = knn_top1(seen_ND, labels_of(train), held_MD, labels_of(val))
            model = cast(FrozenModel, ProbedTeacher(frozen, probe.to(self.lesson.device)))
        return model, TeacherFacts(
            part=part.ref(),
            name=frozen.name,
            weights_sha256=frozen.weights_sha256,
            licence=frozen.licence,
            size_px=frozen.size_px,
            parameters=frozen.parameters,
            precision=frozen.precision,
            probe_top1=probe_top1,
            knn_top1=knn,
            classes=getattr(frozen, "classes", ()),
        )


def teach(parts: Sequence[Teacher], taps: tuple[str, ...], lesson: Lesson) -> tuple[Teaching, ...]:
    """Return every teacher at work, its answers kept where the recipe asks for it."""
    return tuple(Teaching(part, taps, lesson) for part in parts)


def _stored(tap: str) -> str:
    return PROBE_TAP if tap == "probe_logits" else tap


def _whole_contract(teacher: FrozenModel) -> InputContract:
    """Return how whole images are shown to a teacher: the largest centre square at its size; it normalises itself."""
    size_px = teacher.size_px
    return InputContract(
        size_px=size_px,
        resize_px=size_px[0],
        interpolation="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
