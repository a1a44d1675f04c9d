"""The tables. A change here needs a migration beside it, in `migrations/versions`; a test compares the two.

Names from outside are stored as `wording.plain` spells them, so that both databases take them. Facts that have no column
stand in `record`, the record's own JSON.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

_NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Utc(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the time zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the moment with its time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of the tables."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {datetime: Utc(), float: Double(), str: String(), bool: Boolean(), int: Integer()}  # noqa: RUF012


run_measurements = Table(
    "edgekd_run_measurements",
    Base.metadata,
    Column("run_id", ForeignKey("edgekd_runs.id"), primary_key=True),
    Column("measurement_id", ForeignKey("edgekd_measurements.id"), primary_key=True, index=True),
)
run_artifacts = Table(
    "edgekd_run_artifacts",
    Base.metadata,
    Column("run_id", ForeignKey("edgekd_runs.id"), primary_key=True),
    Column("artifact_id", ForeignKey("edgekd_artifacts.id"), primary_key=True, index=True),
)


class Run(Base):
    """The report of a run; `at` is when it was made, `added` when it was put in here."""

    __tablename__ = "edgekd_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    report: Mapped[str] = mapped_column(String(64), unique=True)
    recipe: Mapped[str] = mapped_column(index=True)
    student: Mapped[str]
    images: Mapped[int]
    top1_correct: Mapped[int]
    at: Mapped[datetime | None]
    added: Mapped[datetime]
    version: Mapped[str]
    git: Mapped[str]
    command: Mapped[str] = mapped_column(Text)
    verdicts: Mapped[list["Judged"]] = relationship(back_populates="run", order_by="Judged.id")
    measurements: Mapped[list["Measured"]] = relationship(secondary=run_measurements, order_by="Measured.name")
    artifacts: Mapped[list["Exported"]] = relationship(secondary=run_artifacts, order_by="Exported.name")

    @property
    def when(self) -> datetime:
        """Return when the report was made, or when it was put in here if it does not say."""
        return self.at or self.added


class Judged(Base):
    """A verdict."""

    __tablename__ = "edgekd_verdicts"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("edgekd_runs.id"), index=True)
    outcome: Mapped[str]
    exit_code: Mapped[int]
    budgets: Mapped[str] = mapped_column(String(64))
    added: Mapped[datetime]
    record: Mapped[str] = mapped_column(Text)
    run: Mapped[Run] = relationship(back_populates="verdicts")
    findings: Mapped[list["Found"]] = relationship(back_populates="verdict", order_by="Found.position")


class Found(Base):
    """A finding; `position` is its place in the verdict, `counts` whether that heeds it, `name` the budget's own name."""

    __tablename__ = "edgekd_findings"
    __table_args__ = (UniqueConstraint("verdict_id", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    verdict_id: Mapped[int] = mapped_column(ForeignKey("edgekd_verdicts.id"))
    position: Mapped[int]
    budget: Mapped[str] = mapped_column(index=True)
    subject: Mapped[str]
    value: Mapped[float | None]
    limit: Mapped[float]
    bound: Mapped[str]
    unit: Mapped[str]
    outcome: Mapped[str]
    because: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(server_default="")
    counts: Mapped[bool] = mapped_column(server_default=true())
    verdict: Mapped[Judged] = relationship(back_populates="findings")


class Measured(Base):
    """A measurement in a few numbers; `digest` is that of the figures and their artifact.

    `name` is `<artifact>@<device>`, with `.<arm>` behind it for another arm of its session than the candidate.
    """

    __tablename__ = "edgekd_measurements"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(index=True)
    artifact: Mapped[str]
    device: Mapped[str]
    runtime: Mapped[str]
    precision: Mapped[str]
    protocol: Mapped[str]
    batch: Mapped[int]
    threads: Mapped[int]
    samples: Mapped[int] = mapped_column(BigInteger)
    p50_ms: Mapped[float | None]
    p90_ms: Mapped[float | None]
    trusted: Mapped[bool]
    added: Mapped[datetime]
    record: Mapped[str] = mapped_column(Text)


class Exported(Base):
    """An exported model; without images it was not executed."""

    __tablename__ = "edgekd_artifacts"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(index=True)
    precision: Mapped[str]
    runtime: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int | None]
    top1_correct: Mapped[int | None]
    added: Mapped[datetime]


TABLES: tuple[Any, ...] = (Run, Judged, Found, Measured, Exported)
