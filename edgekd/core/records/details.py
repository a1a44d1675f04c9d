"""What a report shows beside its figures: classes that changed, images that flipped, and how the machine was meanwhile."""

from typing import Literal

from pydantic import Field

from edgekd.core.records.circumstances import Fingerprint
from edgekd.core.records.record import Fact


class ClassChange(Fact):
    """One class, by two models' answers to the same images of it; `p_value` is exact McNemar's, corrected by Holm."""

    name: str
    images: int
    right: int
    right_before: int
    only_now: int
    only_before: int
    p_value: float

    @property
    def difference(self) -> float:
        """Return by how much the share of right answers changed."""
        return (self.right - self.right_before) / self.images


class Change(Fact):
    """A model's answers beside another's, class by class; those that lost most come first."""

    subject: str
    against: str
    classes: tuple[ClassChange, ...]


class Answer(Fact):
    """What one model says of an image; `said` is empty for no answer (NaN)."""

    who: str
    said: str
    right: bool


class ShownImage(Fact):
    """An image on which models disagree; `jpeg` is a small picture of it in base64, empty where there is none."""

    image: str
    label: str
    answers: tuple[Answer, ...]
    jpeg: str = ""


class TimelinePoint(Fact):
    """One sample of a machine: seconds since the first, the fastest core's clock, the hottest zone, share of time at work."""

    at_s: float
    clock_mhz: float | None
    temperature_c: float | None
    busy: float | None
    gpu_clock_mhz: float | None = None


class TimelineWorker(Fact):
    """When a worker was timed, and its median."""

    artifact: str
    arm: Literal["candidate", "baseline", "reference"]
    at_s: float
    p50_ms: float


class Timeline(Fact):
    """One session on one device as time goes by."""

    device: str
    session: str
    points: tuple[TimelinePoint, ...]
    workers: tuple[TimelineWorker, ...]


class Details(Fact):
    """`shown` are the worst of `flipped` images; `fingerprints` are those of the measured devices, by name."""

    changes: tuple[Change, ...] = ()
    shown: tuple[ShownImage, ...] = ()
    flipped: int = 0
    timelines: tuple[Timeline, ...] = ()
    fingerprints: dict[str, Fingerprint] = Field(default={})
