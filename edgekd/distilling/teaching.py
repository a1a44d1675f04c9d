"""Teachers at work on one set of training images: asked once, with the answers kept, or in every step.

Axes: B batch, C channels, H height, W width, D feature width, K classes, N images.
"""

from collections.abc import Mapping, Sequence
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
from edgekd.distilling.faults import blamed, finite, load_all
from edgekd.distilling.feature_store import FeatureStore
from edgekd.distilling.probes import PROBE_TAP, LinearProbe, ProbedTeacher, knn_top1
from edgekd.distilling.subteachers import SubTeacher, answered, resampled, stored, understood
from edgekd.distilling.views import Crops

_ONLINE_BATCH = 64
_TRIED = 8


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

    def __init__(self, part: Teacher, taps: tuple[str, ...], lesson: Lesson, *, frozen: FrozenModel | None = None) -> None:
        self.lesson = lesson
        self.taps = taps
        self.asked: dict[str, SubTeacher] = {tap: understood(tap) for tap in taps}
        self.frozen = (frozen or part.load()).to(lesson.device)
        self._check_asked()
        self.model: FrozenModel = self.frozen
        self.probes: dict[tuple[str, int], LinearProbe] = {}
        self.said_MK: Tensor | None = None  # by a linear probe, of the validation images
        self._store = self._kept() if lesson.views else None
        self.model, self.facts = self._probed(part)
        self._try_out()

    @property
    def online(self) -> bool:
        """Say whether the teacher runs in every step and has to see the images."""
        return self._store is None

    def spec(self) -> FeatureSpec:
        """Return the shapes of the taps."""
        return self.spec_of(self.taps)

    def spec_of(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of any taps that this teacher could be asked for."""
        return answered(self.frozen, taps, classes=len(self.lesson.source.classes))

    def answer(self, index_B: Tensor, view_B: Tensor, shown_BCHW: Tensor | None) -> dict[str, Tensor]:
        """Return the taps for these views: looked up, or computed from the uint8 images shown."""
        device = self.lesson.device
        if self._store is None:
            assert shown_BCHW is not None
            return self._derived({0: self._finite(self._online(shown_BCHW, stored(self.asked.values())), index_B)})
        if self.lesson.cache.answers == "mean":
            return self._derived({0: {tap: value.to(device) for tap, value in self._store.mean(index_B).items()}})
        crops = {}
        for crop in sorted({one.crop for one in self.asked.values()}):
            kept = self._store.features(index_B, (view_B + crop) % self.lesson.views)
            crops[crop] = {tap: value.to(device) for tap, value in kept.items()}
        return self._derived(crops)

    def ask(self, indices: Sequence[int], view: int) -> dict[str, Tensor]:
        """Return the taps for one view of several images, cutting them if the answers are not kept."""
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        view_B = torch.full_like(index_B, view)
        shown = None
        if self._store is None:
            shown = self._crops(index_B, view)
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
            found = collect(lambda x_BCHW: self.frozen.features(x_BCHW, taps), images, contract, device=lesson.device)
            names = [sample.id for sample in images.samples]
            return finite(found, self.frozen.name, lambda row: f"of {names[row]}")

        def batch(indices: Sequence[int], _view: int) -> Tensor:
            return torch.from_numpy(prepare_batch(images, indices, contract))

        # Counted up when a teacher comes to compute otherwise, if only in the last bit: a run made anew has to end alike.
        cut = cache.Cut(facts={"kind": "whole", "answered_by": 2, **contract.model_dump(mode="json")}, views=1, batch=batch)
        return self._fill(images, cut, taps).features(torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64))

    def _kept(self) -> FeatureStore:
        lesson, size_px = self.lesson, self.frozen.size_px
        crops = lesson.crops
        taps = stored(self.asked.values())
        shapes = self.frozen.spec(taps).shapes
        if lesson.cache.answers == "mean" and (maps := [tap for tap, shape in shapes.items() if len(shape) > 1]):
            raise UsageError(f"`answers: mean` averages vectors, and `{maps[0]}` says where things are, which crops move about")

        def batch(indices: Sequence[int], view: int) -> Tensor:
            return crops.batch(lesson.images, indices, view, size_px=size_px)

        cut = cache.Cut(facts=crops.facts(size_px), views=lesson.views, batch=batch)
        return self._fill(lesson.images, cut, taps)

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

    def _check_asked(self) -> None:
        """Refuse, before any work, what this teacher cannot be asked with these images and these kept answers."""
        lesson = self.lesson
        if any(one.probe for one in self.asked.values()) and not len(lesson.source.train()):
            raise UsageError("a probe of the teacher needs labelled images, and there are none")
        crop = max((one.crop for one in self.asked.values()), default=0)
        if crop and (lesson.cache.answers == "mean" or crop >= lesson.views):
            raise UsageError(
                f"another crop's answer (~{crop}) needs {crop + 1} kept views, each by itself; the cache has"
                f" {'the mean of its views' if lesson.cache.answers == 'mean' else lesson.views}",
                mend=f"set `cache.views` to {crop + 1} or more, and leave `cache.answers: each`",
            )

    def _try_out(self) -> None:
        """Have a teacher that runs in every step answer a few images first, lest a broken one be met in the training.

        What probes were fitted on has been seen by then.
        """
        probed = self._probed_taps() if len(self.lesson.source.train()) else ()
        taps = tuple(tap for tap in stored(self.asked.values()) if tap not in probed)
        if self.online and taps:
            index_B = torch.arange(min(_TRIED, len(self.lesson.images)))
            self._finite(self._online(self._crops(index_B, 0), taps), index_B)

    def _crops(self, index_B: Tensor, view: int) -> Tensor:
        return self.lesson.crops.batch(self.lesson.images, index_B.tolist(), view, size_px=self.frozen.size_px)

    def _online(self, shown_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        return self.frozen.features(shown_BCHW.to(self.lesson.device).float().div_(255), taps)

    def _finite(self, found: dict[str, Tensor], index_B: Tensor) -> dict[str, Tensor]:
        samples = self.lesson.images.samples
        return finite(found, self.frozen.name, lambda row: f"of {samples[int(index_B[row])].id}")

    def _labelled_crops(self, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return taps of the first view of each labelled image; these are the first of the images."""
        found: dict[str, list[Tensor]] = {tap: [] for tap in taps}
        for index_B in torch.arange(len(self.lesson.source.train())).split(_ONLINE_BATCH):
            if self._store is not None:
                answer = self._store.features(index_B, torch.zeros_like(index_B))
            else:
                answer = self._finite(self._online(self._crops(index_B, 0), taps), index_B)
            for tap in taps:
                found[tap].append(answer[tap].cpu())
        return {tap: torch.cat(values) for tap, values in found.items()}

    def _derived(self, crops: Mapping[int, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what was asked, from the teacher's own taps of each crop."""
        answers = {}
        for name, one in self.asked.items():
            found = crops[one.crop][one.tap]
            answers[name] = self.probes[one.head](found) if one.probe else found
        return answers

    def _probed(self, part: Teacher) -> tuple[FrozenModel, TeacherFacts]:
        source, frozen = self.lesson.source, self.frozen
        train, val = source.train(), source.val()
        probe_top1 = knn = None
        model = frozen
        if len(train):
            self.lesson.console.say(f"{frozen.name}: probing its features on {len(train)} labelled images")
            label_N, label_M = labels_of(train), labels_of(val)
            seen = self.whole(train, self._probed_taps())
            held_MD = self.whole(val, (PROBE_TAP,))[PROBE_TAP]
            self._fit_probes(seen, label_N)
            probe = self.probes.get((PROBE_TAP, 0))
            if probe is None:
                probe = LinearProbe.fit(seen[PROBE_TAP], label_N, classes=len(source.classes))
            self.said_MK = probe.cpu()(held_MD)
            probe_top1 = float((self.said_MK.argmax(dim=1) == label_M).double().mean())
            knn = knn_top1(seen[PROBE_TAP], label_N, held_MD, label_M)
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

    def _probed_taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((PROBE_TAP, *(one.tap for one in self.asked.values() if one.probe))))

    def _fit_probes(self, seen: Mapping[str, Tensor], label_N: Tensor) -> None:
        """Fit every probe that is asked for, on whole images and on crops, which is what it will be asked about."""
        heads = dict.fromkeys(one.head for one in self.asked.values() if one.probe)
        crops = self._labelled_crops(tuple(dict.fromkeys(tap for tap, _ in heads))) if heads else {}
        for tap, bag in heads:
            drawn_N = resampled(label_N, bag)
            fitted_ND = torch.cat([seen[tap][drawn_N], crops[tap][drawn_N]])
            probe = LinearProbe.fit(fitted_ND, label_N[drawn_N].repeat(2), classes=len(self.lesson.source.classes))
            self.probes[tap, bag] = probe.to(self.lesson.device)


def teach(
    parts: Sequence[Teacher],
    taps: tuple[str, ...],
    lesson: Lesson,
    *,
    by_teacher: Sequence[tuple[str, ...]] = (),
    frozen: Sequence[FrozenModel] = (),
) -> tuple[Teaching, ...]:
    """Return every teacher at work, its answers kept where the recipe asks for it.

    `by_teacher` are the taps of each where they differ. What goes wrong with one of several says with which.
    """
    models = tuple(frozen) or load_all(parts)
    wanted = tuple(by_teacher) or (taps,) * len(parts)
    found = []
    for number, (part, model, own) in enumerate(zip(parts, models, wanted, strict=True)):
        with blamed(part, number, of=len(parts)):
            found.append(Teaching(part, own, lesson, frozen=model))
    return tuple(found)


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
