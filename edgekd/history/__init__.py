"""Every verdict and measurement in one database, and how its figures moved: SQLite in a file, PostgreSQL by URL."""

from edgekd.history.adding import Added, add
from edgekd.history.database import HISTORY_VARIABLE
from edgekd.history.page import page
from edgekd.history.table import show

__all__ = ["HISTORY_VARIABLE", "Added", "add", "page", "show"]
