"""Findings have the name of their budget, and say whether they count: warnings and waived ones do not."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns; what is there already has no name, and counted."""
    op.add_column("edgekd_findings", sa.Column("name", sa.String(), nullable=False, server_default=""))
    op.add_column("edgekd_findings", sa.Column("counts", sa.Boolean(), nullable=False, server_default=sa.true()))
