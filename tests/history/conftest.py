"""A real PostgreSQL server, from the system's packages: no network, a Unix socket in a folder that is removed afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Return the folder of PostgreSQL's newest programs, wherever the system keeps them."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: int(folder.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def as_server_user() -> list[str]:
    """Return what to put before a command, because PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Return the URL of an empty database on a server of its own; without PostgreSQL a skip, in CI a failure."""
    bin_ = programs()
    if bin_ is None:
        message = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    # Not below pytest's own folder: that one is closed to other users, and too deep for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="edgekd-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    quick = (
        "-F -c listen_addresses='' -c full_page_writes=off -c max_connections=20 -c shared_buffers=8MB -c timezone=Asia/Tokyo"
    )
    control = [*as_server_user(), str(bin_ / "pg_ctl"), "-D", str(data), "-w", "-s"]
    try:
        made = [*as_server_user(), str(bin_ / "initdb"), "-D", str(data), "-U", user, "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*made, "--locale=C", "--no-instructions"], check=True, capture_output=True, cwd="/")
        options = f"{quick} -c unix_socket_directories={folder}"
        subprocess.run(
            [*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd="/", stdin=subprocess.DEVNULL
        )
        with stopped_with_us([*control, "-m", "immediate", "stop"], folder):
            yield f"postgresql://{user}@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stopped_with_us(stop: list[str], folder: Path) -> Iterator[None]:
    """Have the server stopped and its folder removed also if the tests are killed, when no finaliser of theirs runs."""
    script = 'while [ -d "/proc/$1" ]; do sleep 1; done; folder=$2; shift 2; "$@"; rm -rf "$folder"'
    command = ["sh", "-c", script, "watch", str(os.getpid()), str(folder), *stop]
    watch = subprocess.Popen(
        command, cwd="/", start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        watch.kill()
        watch.wait()


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return where an empty history goes: a file, and a schema of the server that only this test sees."""
    if request.param == "sqlite":
        yield str(tmp_path / "history.db")
        return
    import psycopg

    url = request.getfixturevalue("postgresql")
    schema = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    yield f"{url}&options=-csearch_path%3D{schema}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
