"""URLs as they may be shown and written down: without what only their owner should know."""

import re

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/@?#]*:[^/@?#]+@|[?&](password|passwd|secret|token|key)=", re.IGNORECASE)
_DATABASES = ("sqlite", "postgresql", "postgres")


def is_url(text: str) -> bool:
    """Return whether a place is named by URL; else it is a path."""
    return _URL.match(text) is not None


def without_secrets(text: str) -> str:
    """Return a text with every URL in it bare of user, password, query and fragment, which may hold keys."""
    bare = re.sub(r"(?<=://)[^/@\s]*@", "", text)
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", bare)


def check_history(target: str) -> None:
    """Raise `ValueError` for a URL that is neither SQLite's nor PostgreSQL's, or that tells a password.

    A recipe is copied into its run folder, and a command line into its records; a password has no place in either.
    """
    if not is_url(target):
        return
    scheme = target.partition("://")[0].partition("+")[0].lower()
    if scheme not in _DATABASES:
        raise ValueError(f"a history lies in a file or in PostgreSQL (history.db, postgresql://HOST/NAME), not in {scheme}")
    if _PASSWORD.search(target):
        raise ValueError(
            "the URL tells a password, which would be written down with the run; put it into PGPASSWORD or ~/.pgpass"
        )
