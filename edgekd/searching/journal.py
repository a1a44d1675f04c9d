"""What was computed so far, line by line, so that a search that was killed goes on instead of beginning anew."""

import json
import os
from pathlib import Path
from typing import Any

from edgekd.core.store import disk_errors


class Journal:
    """A file of JSON lines, the first of them what all others depend on; a line is there or not, never half.

    Opened for other circumstances than it was written for, it begins anew. `found` holds the entries by their name.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        self.found = self._read(about)
        if self.found is None:
            self.found = {}
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
            self._append({"about": about})

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Keep an entry durably."""
        assert self.found is not None
        self.found[name] = entry
        self._append({"name": name, **entry})

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a kept entry."""
        assert self.found is not None
        return self.found.get(name)

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, about: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
        """Return the kept entries; None if there are none of these circumstances. A last line cut short is taken off."""
        if not self._path.is_file():
            return None
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            return None
        if not lines or lines[0] != {"about": about}:
            return None
        if len(whole) < len(raw):
            with disk_errors(self._path):
                os.truncate(self._path, len(whole))
        return {line.pop("name"): line for line in lines[1:]}
