"""A model with its answers image by image, found in a report; where there is none, the sentence that says so."""

from dataclasses import dataclass
from functools import cached_property

from edgekd.core import answers
from edgekd.core.evidence import Evidence
from edgekd.core.records import Accuracy, Answers, FileRef, Report


@dataclass(frozen=True)
class Model:
    """A model's name, its counts and its answers."""

    name: str
    accuracy: Accuracy
    answers: Answers

    @cached_property
    def right(self) -> list[bool]:
        """Return image by image whether the first answer is right."""
        return answers.right_of(self.answers)

    @cached_property
    def top5(self) -> list[bool] | None:
        """Return image by image whether the label is among the first five."""
        return answers.top5_of(self.answers)

    def losses(self, name: str) -> list[float] | None:
        """Return the Brier scores or negative log-likelihoods image by image."""
        packed = self.answers.brier if name == "brier" else self.answers.nll
        return answers.losses_of(packed, self.answers)


def model_of(report: Report, name: str) -> Model | str:
    """Return a model of a report: `student`, `undistilled`, `teacher` (the best one) or an artifact's name."""
    accuracy = accuracy_of(report, name)
    if name == "teacher":
        teachers = [one for one in report.answers if one.of.startswith("teacher:")]
        if not teachers:
            return "What a teacher answers to these images was not recorded, so the student cannot be held against it."
        best = max(teachers, key=lambda one: sum(answers.right_of(one)))
        return Model(best.of, _counted(best), best)
    if accuracy is None or accuracy.images == 0:
        return f"{name} was tried on no images."
    found = next((one for one in report.answers if one.of == name), None)
    if found is None:
        return f"The report does not hold what {name} answered image by image."
    if (found.images, sum(answers.right_of(found))) != (accuracy.images, accuracy.top1_correct):
        return f"What the report holds of {name} image by image does not add up to its counts."
    return Model(name, accuracy, found)


def baseline_of(evidence: Evidence, name: str) -> Model | str:
    """Return the same model in the baseline's report."""
    if evidence.baseline is None:
        return "There is no baseline to compare with: none was given."
    found = model_of(evidence.baseline, name)
    return f"Of the baseline: {found}" if isinstance(found, str) else found


def foreign_data(evidence: Evidence) -> str:
    """Return why the baseline's images are not these; '' if they are, or if there is no baseline."""
    if evidence.baseline is None:
        return ""
    here, there = evidence.report.student.data.digest, evidence.baseline.student.data.digest
    return "" if here == there else f"The baseline is about other images: sha256:{there[:8]}, and here sha256:{here[:8]}."


def other_images(model: Model, other: Model) -> str:
    """Return why two models' answers cannot be paired; '' if they are about the same images with the same labels."""
    if (model.answers.images_digest, model.answers.images) == (other.answers.images_digest, other.answers.images):
        return ""
    return f"{model.name} and {other.name} were judged on other images or labels, so nothing can be paired."


def accuracy_of(report: Report, name: str) -> Accuracy | None:
    """Return the counts of `student`, `undistilled` or an artifact; None if there are none."""
    if name == "student":
        return report.student.accuracy
    if name == "undistilled":
        return report.baseline.accuracy if report.baseline else None
    return next((one.accuracy for one in report.artifacts if one.name == name), None)


def _counted(found: Answers) -> Accuracy:
    right, top5 = answers.right_of(found), answers.top5_of(found)
    return Accuracy(
        images=found.images,
        top1_correct=sum(right),
        top5_correct=None if top5 is None else sum(top5),
        predictions=FileRef(path="", size_bytes=0, sha256=""),
    )
