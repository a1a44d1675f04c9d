"""Runs, verdicts, findings, measurements and artifacts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "edgekd_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("report", sa.String(64), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("student", sa.String(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("top1_correct", sa.Integer(), nullable=False),
        sa.Column("at", _moment, nullable=True),
        sa.Column("added", _moment, nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("git", sa.String(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_edgekd_runs"),
        sa.UniqueConstraint("report", name="uq_edgekd_runs_report"),
    )
    op.create_index("ix_edgekd_runs_recipe", "edgekd_runs", ["recipe"])
    op.create_table(
        "edgekd_measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("p50_ms", sa.Double(), nullable=True),
        sa.Column("p90_ms", sa.Double(), nullable=True),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("added", _moment, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_edgekd_measurements"),
        sa.UniqueConstraint("digest", name="uq_edgekd_measurements_digest"),
    )
    op.create_index("ix_edgekd_measurements_name", "edgekd_measurements", ["name"])
    op.create_table(
        "edgekd_artifacts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=True),
        sa.Column("top1_correct", sa.Integer(), nullable=True),
        sa.Column("added", _moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_edgekd_artifacts"),
        sa.UniqueConstraint("digest", name="uq_edgekd_artifacts_digest"),
    )
    op.create_index("ix_edgekd_artifacts_name", "edgekd_artifacts", ["name"])
    _verdicts()
    _belonging("measurement")
    _belonging("artifact")


def _verdicts() -> None:
    op.create_table(
        "edgekd_verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=False),
        sa.Column("budgets", sa.String(64), nullable=False),
        sa.Column("added", _moment, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["edgekd_runs.id"], name="fk_edgekd_verdicts_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_edgekd_verdicts"),
        sa.UniqueConstraint("digest", name="uq_edgekd_verdicts_digest"),
    )
    op.create_index("ix_edgekd_verdicts_run_id", "edgekd_verdicts", ["run_id"])
    op.create_table(
        "edgekd_findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verdict_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("budget", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("limit", sa.Double(), nullable=False),
        sa.Column("bound", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["verdict_id"], ["edgekd_verdicts.id"], name="fk_edgekd_findings_verdict_id"),
        sa.PrimaryKeyConstraint("id", name="pk_edgekd_findings"),
        sa.UniqueConstraint("verdict_id", "position", name="uq_edgekd_findings_verdict_id"),
    )
    op.create_index("ix_edgekd_findings_budget", "edgekd_findings", ["budget"])


def _belonging(what: str) -> None:
    table = f"edgekd_run_{what}s"
    op.create_table(
        table,
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column(f"{what}_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["edgekd_runs.id"], name=f"fk_{table}_run_id"),
        sa.ForeignKeyConstraint([f"{what}_id"], [f"edgekd_{what}s.id"], name=f"fk_{table}_{what}_id"),
        sa.PrimaryKeyConstraint("run_id", f"{what}_id", name=f"pk_{table}"),
    )
    op.create_index(f"ix_{table}_{what}_id", table, [f"{what}_id"])
