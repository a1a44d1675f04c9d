"""The database that a history lies in: opened, brought up to date, and written by one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import MachineError, UsageError
from edgekd.core.urls import check_history, is_url, without_secrets

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.orm import Session

HISTORY_VARIABLE = "EDGEKD_HISTORY"
VERSION_TABLE = "edgekd_schema"
_MIGRATIONS = Path(__file__).parent / "migrations"
_WAIT_S = 60
_LOCK = 0x65646765  # of PostgreSQL's advisory locks; 'edge'
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class Database:
    """A history; `with database.reading() as session` sees it, `writing` changes it, whole or not at all."""

    def __init__(self, target: str, *, make: bool) -> None:
        """Open a file or URL and bring its tables up to date; with `make` it need not be there yet."""
        self._url = _url_of(target)
        self.shown = without_secrets(target)
        self._path = Path(self._url.database or "") if self._url.drivername.startswith("sqlite") else None
        if self._path is not None and not make and not self._path.is_file():
            raise UsageError(f"{self.shown}: there is no history here", mend="edgekd history add RUN")
        self._engine = self._engine_of()
        with self._errors():
            self._bring_up_to_date()

    def close(self) -> None:
        """Let go of the connection."""
        self._engine.dispose()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> "Iterator[Session]":
        """Look at one state of the history."""
        from sqlalchemy.orm import Session

        with self._errors(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> "Iterator[Session]":
        """Change the history, alone; others wait, at most a minute."""
        from sqlalchemy.orm import Session

        with self._errors(), self._alone() as connection, Session(connection) as session:
            yield session
            session.flush()

    @contextmanager
    def _alone(self) -> "Iterator[Connection]":
        from sqlalchemy import text

        with self._engine.connect().execution_options(edgekd_writes=True) as connection, connection.begin():
            if self._path is None:
                connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_S}s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection

    def _bring_up_to_date(self) -> None:
        with self._engine.connect() as connection:
            if self._revision(connection) == newest():
                return
        with self._alone() as connection:
            migrate(connection, "head")

    def _revision(self, connection: "Connection") -> str | None:
        """Return the revision of the tables; raise `UsageError` for one that this edgekd does not know, or a foreign file."""
        from alembic.runtime.migration import MigrationContext
        from sqlalchemy import inspect

        revision = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        if revision is not None and revision not in revisions():
            raise UsageError(
                f"{self.shown}: was written by a newer edgekd (revision {revision}; this one knows {', '.join(revisions())})",
                mend="install that edgekd",
            )
        if revision is None and self._path is not None and (tables := inspect(connection).get_table_names()):
            raise UsageError(f"{self.shown}: is a database of something else (it has {tables[0]})", mend="name another file")
        return revision

    def _engine_of(self) -> "Engine":
        from sqlalchemy import create_engine, event
        from sqlalchemy.pool import NullPool

        if self._path is None:
            return create_engine(self._url, poolclass=NullPool, connect_args={"connect_timeout": 10})
        engine = create_engine(self._url, poolclass=NullPool, connect_args={"timeout": _WAIT_S})

        def connected(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # SQLite's own driver would begin and commit by itself
            connection.execute("PRAGMA foreign_keys = ON")

        def began(connection: "Connection") -> None:
            writes = connection.get_execution_options().get("edgekd_writes")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        event.listen(engine, "connect", connected)
        event.listen(engine, "begin", began)
        return engine

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, SQLAlchemyError

        try:
            yield
        except OperationalError as error:
            raise MachineError(f"{self.shown}: cannot be used: {_told(error)}", mend=self._mend()) from error
        except DatabaseError as error:
            if "not a database" in str(error.orig):
                raise UsageError(f"{self.shown}: is a file of something else", mend="name another file") from error
            raise MachineError(f"{self.shown}: {_told(error)}") from error
        except (DBAPIError, SQLAlchemyError) as error:
            raise MachineError(f"{self.shown}: {_told(error)}") from error

    def _mend(self) -> str:
        return "look after the server, its name and its rights" if self._path is None else "look after the disk and the rights"


def migrate(connection: "Connection", revision: str) -> None:
    """Bring the tables of a connection up to a revision, within its transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revisions() -> list[str]:
    """Return the revisions of the tables, oldest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def newest() -> str:
    """Return the revision that this edgekd writes."""
    return revisions()[-1]


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _url_of(target: str) -> "URL":
    _need_packages()
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if not is_url(target):
        return URL.create("sqlite", database=str(Path(target).expanduser()))
    try:
        check_history(target)
        url = make_url(target)
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"{without_secrets(target)}: {error}", mend="name a file, or postgresql://USER@HOST/NAME") from error
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def _need_packages() -> None:
    missing = [package for package in ("sqlalchemy", "alembic", "psycopg") if find_spec(package) is None]
    if missing:
        raise MachineError(f"a history needs the package {', '.join(missing)}", mend="pip install 'edgekd[history]'")


def _told(error: Exception) -> str:
    """Return what the database said, in one line and without the statement."""
    said = str(getattr(error, "orig", None) or error).strip()
    return " ".join(said.split(os.linesep)[0].split())
