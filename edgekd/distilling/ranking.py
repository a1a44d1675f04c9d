"""Which teacher? What its features of the user's images are worth, found before anything is trained.

KDEP (He et al. 2022) reports that students follow how compact and how spread the teacher's features are rather than its
accuracy. Its formula is not published, so `compactness` is ours; that any of these figures goes along with the student's
quality is the paper's claim, and nothing here measures it.

Axes: B batch, C channels, H height, W width, N images, D feature width.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.core import stats
from edgekd.core.console import Console
from edgekd.core.contracts import Source
from edgekd.core.errors import DataError
from edgekd.core.host import device_facts
from edgekd.core.records import Interval, MadeBy
from edgekd.core.side_records import RankedTeacher, TeacherRanking
from edgekd.distilling.basis import Covariance
from edgekd.distilling.evaluation import labels_of
from edgekd.distilling.probes import PROBE_TAP
from edgekd.distilling.teaching import Teaching

TIMED_BATCHES = 3
_TIMED_IMAGES = {"cpu": 8, "cuda": 64}
_CHUNK_ROWS = 1024
_EXACTLY = "donot_use_mm_for_euclid_dist"
CLAIM = (
    "That students follow the compactness of a teacher's features is the KDEP paper's claim (its formula is not published,"
    " this one is ours); it was not measured here."
)


def compactness(features_ND: Tensor, label_N: Tensor) -> float:
    """Return the mean distance within a class over the mean distance between class centres, of L2-normalised features.

    Within: over pairs of images of a class, then over the classes with at least two. Between: over pairs of class means.
    Smaller is more compact. In float64. Raises `DataError` without two classes of which one has two images, or if all
    centres coincide.
    """
    unit_ND = functional.normalize(features_ND.detach().double().cpu(), dim=1)
    groups = [unit_ND[label_N.cpu() == label] for label in label_N.unique().tolist()]
    within = [_mean_pair_distance(group_ND) for group_ND in groups if len(group_ND) > 1]
    if len(groups) < 2 or not within:
        raise DataError("compactness needs labelled images of at least two classes, and two of one class")
    between = _mean_pair_distance(torch.stack([group_ND.mean(dim=0) for group_ND in groups]))
    if between == 0:
        raise DataError("the classes' mean features coincide, so how compact they are has no meaning")
    return sum(within) / len(within) / between


def participation_ratio(features_ND: Tensor) -> float:
    """Return (sum lambda)^2 / sum lambda^2 over the eigenvalues of the covariance, in float64; 1 to D, 0 if nothing varies."""
    value_D = _eigenvalues(features_ND)
    total = float(value_D.sum())
    return total**2 / float(value_D.square().sum()) if total > 0 else 0.0


def effective_rank(features_ND: Tensor) -> float:
    """Return exp(entropy) of the covariance's eigenvalues as shares (Roy & Vetterli 2007, on the covariance), in float64.

    Between 1 and D; 0 if nothing varies.
    """
    value_D = _eigenvalues(features_ND)
    total = float(value_D.sum())
    return float(torch.special.entr(value_D / total).sum().exp()) if total > 0 else 0.0


def rank(teachings: Sequence[Teaching], source: Source, *, console: Console, made_by: MadeBy) -> TeacherRanking:
    """Return the teachers with their figures, the best linear probe first, in their own order where there is none."""
    ranked = [_figures(teaching, source, console) for teaching in teachings]
    ranked.sort(key=lambda one: -(one.probe_top1.value if one.probe_top1 else 0.0))
    return TeacherRanking(
        made_by=made_by,
        from_={"data": source.digest()},
        data=source.facts(),
        device=_machine(teachings[0].lesson.device),
        teachers=tuple(ranked),
        advice=advice(ranked, validation_images=len(source.val())),
    )


def advice(ranked: Sequence[RankedTeacher], *, validation_images: int) -> str:
    """Return in words which of these teachers, best probe first, to take."""
    best, *others = ranked
    if best.probe_top1 is None:
        return f"No training image has a label, so the teachers cannot be told apart by accuracy. {CLAIM}"
    said = (
        f"Take {best.facts.name}: a linear probe on its features has {best.probe_top1.value:.1%} of {validation_images} right"
    )
    near = [one for one in others if one.probe_top1 is not None and one.probe_top1.high >= best.probe_top1.low]
    if not near:
        return f"{said}{', more than the others beyond their intervals' if others else ''}. {CLAIM}"
    said += f"; not distinguishable from it: {', '.join(one.facts.name for one in near)}"
    quickest = min(near, key=lambda one: one.forward_ms)
    if quickest.forward_ms < best.forward_ms:
        said += f" ({quickest.facts.name} is roughly {best.forward_ms / quickest.forward_ms:.1f} times as fast)"
    return f"{said}. {CLAIM}"


def _figures(teaching: Teaching, source: Source, console: Console) -> RankedTeacher:
    train, unlabelled, validation_images = source.train(), source.unlabelled(), len(source.val())
    seen = [teaching.whole(images, (PROBE_TAP,))[PROBE_TAP] for images in (train, unlabelled) if len(images)]
    features_ND, facts = torch.cat(seen), teaching.facts
    console.say(f"{facts.name}: timing a few batches")
    return RankedTeacher(
        facts=facts,
        width=features_ND.shape[1],
        probe_top1=_share(facts.probe_top1, validation_images),
        knn_top1=_share(facts.knn_top1, validation_images),
        compactness=_compactness_if_any(seen[0], labels_of(train)) if len(train) else None,
        participation_ratio=participation_ratio(features_ND),
        effective_rank=effective_rank(features_ND),
        forward_ms=_forward_ms(teaching),
    )


def _compactness_if_any(features_ND: Tensor, label_N: Tensor) -> float | None:
    try:
        return compactness(features_ND, label_N)
    except DataError:
        return None


def _share(share: float | None, images: int) -> Interval | None:
    return None if share is None else stats.wilson(round(share * images), images)


def _forward_ms(teaching: Teaching) -> float:
    """Return the quickest of a few batches, in milliseconds an image: the least disturbed by whatever else runs here."""
    frozen, device = teaching.frozen, teaching.lesson.device
    images = _TIMED_IMAGES.get(device.type, _TIMED_IMAGES["cpu"])
    image_BCHW = torch.full((images, 3, *frozen.size_px), 0.5, device=device)
    frozen.features(image_BCHW, (PROBE_TAP,))
    took_ns = []
    for _ in range(TIMED_BATCHES):
        before_ns = time.perf_counter_ns()
        frozen.features(image_BCHW, (PROBE_TAP,))[PROBE_TAP].cpu()
        took_ns.append(time.perf_counter_ns() - before_ns)
    return min(took_ns) / images / 1e6


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (device_facts().cpu if device.type == "cpu" else None) or str(device)


def _eigenvalues(features_ND: Tensor) -> Tensor:
    covariance = Covariance()
    covariance.update(features_ND.cpu())
    value_D: Tensor = torch.linalg.eigvalsh(covariance.matrix)
    return value_D.clamp(min=0)


def _mean_pair_distance(rows_ND: Tensor) -> float:
    """Return the mean Euclidean distance over all pairs of different rows."""
    count = len(rows_ND)
    total = sum(float(torch.cdist(chunk_BD, rows_ND, compute_mode=_EXACTLY).sum()) for chunk_BD in rows_ND.split(_CHUNK_ROWS))
    return total / (count * (count - 1))
