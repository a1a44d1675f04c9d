"""What stands in a recipe: its sections as strict data. `edgekd.recipe` reads it from a file and finds its parts."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from edgekd.core.budgets import BudgetsSection
from edgekd.core.config import FilePath, HistoryPlace
from edgekd.core.parts import PartRef
from edgekd.core.plan import Cache, Duration, Positive, Section, Train
from edgekd.core.records import Mode
from edgekd.core.search_plan import Search


class Baseline(Section):
    """The student without the teacher: same start, same labels, same number of images seen; own learning rate if given."""

    method: PartRef = PartRef(use="supervised")
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the baseline's training changes in the recipe's `train` section."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        return {key: value for key, value in given.items() if value is not None}


class Start(Section):
    """Where the student begins: trained by a method of its own first, or taken over from the checkpoint of an earlier run.

    Student and baseline share it. With `head: fresh` the last layer is not taken over, and the classes may be others.
    """

    checkpoint: FilePath | None = None
    head: Literal["kept", "fresh"] = "kept"
    method: PartRef = PartRef(use="supervised")
    duration: Duration | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the start's training changes in the recipe's `train` section."""
        given = {
            "duration": self.duration,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "labelled_share": self.labelled_share,
        }
        return {"freeze": None, **{key: value for key, value in given.items() if value is not None}}

    @model_validator(mode="after")
    def _one_way(self) -> "Start":
        if (self.checkpoint is None) == (self.duration is None):
            raise ValueError("give exactly one of `checkpoint` (a checkpoint.json) and `duration` (how long to train first)")
        if self.head == "fresh" and self.checkpoint is None:
            raise ValueError("`head: fresh` needs `checkpoint`, whose head is to be left behind")
        return self


class Finetune(Section):
    """Training on with int8 in view, after the student and before its int8 artifacts: same method, teachers and kept answers.

    `lr` is by default a tenth of `train.lr`.
    """

    precision: Literal["int8"] = "int8"
    duration: Duration = Duration(epochs=2.0)
    lr: Annotated[float, Field(gt=0)] | None = None

    def changes(self, train: Train) -> dict[str, Any]:
        """Return what this training changes in the recipe's `train` section."""
        return {"duration": self.duration, "lr": self.lr or train.lr / 10, "ema": None, "freeze": None, "fake_quantise": True}


class Pilot(Section):
    """How `edgekd pilot` finds a method: which ones, at which learning rates, and how budgets grow while the losers drop out.

    Without `methods` they are chosen by what the recipe's own method learns from, and that one is among them. `lrs` are factors
    of `train.lr`. `images` is how many images each arm sees on the first rung; by default as many as let the last rung see what
    `train.duration` says, but at most four epochs. On each next rung it is 1 / `keep` times as many, for the best `keep` of
    the arms. `seeds` counts up from the recipe's seed.
    """

    methods: Annotated[tuple[PartRef, ...], Field(min_length=1)] | None = None
    lrs: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    images: Positive | None = None
    rungs: Annotated[int, Field(ge=1, le=10)] = 3
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seeds: Positive = 1

    @field_validator("lrs")
    @classmethod
    def _each_once(cls, lrs: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(lrs)) < len(lrs):
            raise ValueError(f"each factor once (found {', '.join(f'{lr:g}' for lr in lrs)})")
        return lrs


class Bench(Section):
    """How to time the artifacts.

    `profile` says how much work it is: `quick` for a look, `gate` for a decision, `publish` for a figure that others rely on.
    `mode: paced` asks `rate_hz` queries a second and times them from when they were due; `offline` measures throughput.
    `spin: false` has idle threads sleep. `against` is another run, whose artifacts of the same names are measured in turns with
    this one's. `rounds`, `warmup` and `iterations` replace what the protocol finds by itself, for a test or a trial;
    `reference: false` leaves out the model that sessions of different days are compared through.
    """

    devices: tuple[PartRef, ...] = (PartRef(use="local"),)
    profile: Literal["quick", "gate", "publish"] = "gate"
    mode: Mode = "single"
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    batch: Positive = 1
    threads: Positive | None = None
    spin: bool = True
    images: Positive = 32
    rounds: Positive | None = None
    warmup: Annotated[int, Field(ge=0)] | None = None
    iterations: Positive | None = None
    reference: bool | None = None
    against: FilePath | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 900.0


PeerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]


class Recipe(Section):
    """One experiment.

    `peers` are further students, by name, for the methods whose students teach one another. `pictures: false` keeps no small
    pictures of images for the report, where these must not leave the machine.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    about: str = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    data: PartRef
    teachers: tuple[PartRef, ...] = ()
    student: PartRef
    peers: dict[PeerName, PartRef] = Field(default={})
    method: PartRef
    cache: Cache = Cache()
    start: Start | None = None
    train: Train
    finetune: Finetune | Literal["int8"] | None = None
    baseline: Baseline | None = Baseline()
    pilot: Pilot = Pilot()
    search: Search | None = None
    export: tuple[PartRef, ...] = ()
    pictures: bool = True
    bench: Bench | None = Bench()
    budgets: BudgetsSection = BudgetsSection()
    history: HistoryPlace | None = None
    formats: tuple[PartRef, ...] = (
        PartRef(use="json"),
        PartRef(use="markdown"),
        PartRef(use="html"),
        PartRef(use="junit"),
    )
