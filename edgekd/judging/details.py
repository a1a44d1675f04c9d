"""What a page shows beside the figures: which classes changed, and the worst of the images that flipped."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from edgekd.core import stats
from edgekd.core.predictions import Answer as Said
from edgekd.core.predictions import read_answers
from edgekd.core.records import Artifact, Checkpoint
from edgekd.core.records.details import Answer, Change, ClassChange, Details, ShownImage
from edgekd.core.store import BASELINE, RunFolder
from edgekd.core.thumbnails import MOST, read_thumbnails

MOST_CLASSES = 40
STUDENT = "student"

Answers = Mapping[str, Said]


def details_of(run: RunFolder, student: Checkpoint, baseline: Checkpoint | None, artifacts: Sequence[Artifact]) -> Details:
    """Return the details of a run whose records have been read; raise `IntegrityError` for a file that was changed."""
    torch = read_answers(student.accuracy, folder=run.checkpoint().parent)
    through = {
        artifact.name: read_answers(artifact.accuracy, folder=run.artifact(artifact.name).parent)
        for artifact in artifacts
        if artifact.accuracy is not None
    }
    changes = []
    if baseline is not None:
        before = read_answers(baseline.accuracy, folder=run.checkpoint(BASELINE).parent)
        changes.append(change_of(torch, before, subject=STUDENT, against=BASELINE))
    changes += [change_of(now, torch, subject=name, against=STUDENT) for name, now in through.items()]
    flipped = {image for now in through.values() for image in now if now[image].said != torch[image].said}
    return Details(
        changes=tuple(change for change in changes if change.classes),
        shown=_shown(run, {**_taught(run, student), STUDENT: torch, **through}, artifacts),
        flipped=len(flipped),
    )


def change_of(now: Answers, before: Answers, *, subject: str, against: str) -> Change:
    """Return how each class changed on the images that both answered, only classes with another answer right, worst first.

    Of many, half of those kept are the worst and half the best.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for image, answer in now.items():
        if image not in before:
            continue
        was, is_ = before[image].right, answer.right
        count = counts[answer.label]
        for place, hit in enumerate((True, is_, was, is_ and not was, was and not is_)):
            count[place] += hit
    p_values = _holm([stats.mcnemar(only_now, only_before) for *_, only_now, only_before in counts.values()])
    classes = [
        ClassChange(
            name=name,
            images=images,
            right=right,
            right_before=right_before,
            only_now=only_now,
            only_before=only_before,
            p_value=p_value,
        )
        for (name, (images, right, right_before, only_now, only_before)), p_value in zip(counts.items(), p_values, strict=True)
        if only_now or only_before
    ]
    classes.sort(key=lambda one: (one.difference, -one.images, one.name))
    half = MOST_CLASSES // 2
    kept = classes if len(classes) <= MOST_CLASSES else [*classes[:half], *classes[-half:]]
    return Change(subject=subject, against=against, classes=tuple(kept))


def _taught(run: RunFolder, student: Checkpoint) -> dict[str, Answers]:
    """Return what the teachers' linear probes answer."""
    return {
        f"teacher {teacher.name}": read_answers(teacher.accuracy, folder=run.checkpoint().parent)
        for teacher in student.teachers
        if teacher.accuracy is not None
    }


def _shown(run: RunFolder, said: Mapping[str, Answers], artifacts: Sequence[Artifact]) -> tuple[ShownImage, ...]:
    """Return the worst flips of all artifacts, taken from each in turn so that none is left out, with everyone's answers."""
    pictures = [
        read_thumbnails(artifact.flips, folder=run.artifact(artifact.name).parent)
        for artifact in artifacts
        if artifact.flips is not None
    ]
    found: dict[str, str] = {}
    for place in range(MOST):
        for one in pictures:
            entries = list(one.items())
            if place < len(entries) and entries[place][0] in said[STUDENT] and len(found) < MOST:
                found.setdefault(*entries[place])
    return tuple(
        ShownImage(image=image, label=said[STUDENT][image].label, answers=tuple(_answers(image, said)), jpeg=jpeg)
        for image, jpeg in found.items()
    )


def _answers(image: str, said: Mapping[str, Answers]) -> Iterable[Answer]:
    for who, answers in said.items():
        if image in answers:
            yield Answer(who=who, said=answers[image].said, right=answers[image].right)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down procedure, each at most 1."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
