"""What alembic runs for each migration: on the connection, and in the transaction, that it is given."""

from alembic import context

from edgekd.history.database import VERSION_TABLE
from edgekd.history.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
