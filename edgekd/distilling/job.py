"""What is to be learned: the distil stage's task, without torch, so that what is done already is found at once."""

from dataclasses import dataclass
from pathlib import Path

from edgekd.core.contracts import Method, Source, Student, Teacher
from edgekd.core.plan import Cache, Train
from edgekd.core.records import MadeBy, StartFacts


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A further student that learns together with the first one, and where its checkpoint goes."""

    name: str
    student: Student
    folder: Path
    from_: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that one checkpoint depends on.

    `images_seen` fixes the duration when it is given; `start` holds the weights of a student trained before, head included, and
    `start_facts` what is known of it if it was trained in an earlier run. `peers` learn together with the student.
    """

    name: str
    source: Source
    student: Student
    teachers: tuple[Teacher, ...]
    method: Method
    plan: Train
    cache: Cache
    seed: int
    start: Path | None
    images_seen: int | None
    from_: dict[str, str]
    made_by: MadeBy
    start_facts: StartFacts | None = None
    peers: tuple[Peer, ...] = ()
