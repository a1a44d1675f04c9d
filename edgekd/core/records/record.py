"""What every record is: frozen facts with a kind, a schema number, who made it, from what, and a digest.

A record's digest is the sha256 of its canonical JSON without `made_by`: the same facts made twice have the same digest.
"""

import hashlib
import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd.core.errors import IntegrityError


class Fact(BaseModel):
    """A value inside a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True, allow_inf_nan=False)


class MadeBy(Fact):
    """Who made a record: edgekd's version, the command line, the git state of the folder it ran in, UTC time."""

    version: str
    command: str = ""
    git: str = ""
    at: str = ""


class FileRef(Fact):
    """A file beside the record: path relative to the record's folder, size and sha256."""

    path: str
    size_bytes: int
    sha256: str


class Record(Fact):
    """Base of the records; `kind` is the record's name on disk, `version` its schema number."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    made_by: MadeBy
    from_: dict[str, str] = Field(default={}, alias="from")

    def digest(self) -> str:
        """Return the sha256 of the record's facts (everything but `made_by`)."""
        facts = self.model_dump(mode="json", exclude={"made_by"})
        return hashlib.sha256(canonical_json({"record": self.kind, **facts})).hexdigest()

    def to_json(self) -> str:
        """Return the record as it is written to disk."""
        facts = self.model_dump(mode="json")
        envelope = {"record": self.kind, "schema": self.version, "digest": self.digest()}
        text = json.dumps({**envelope, **facts}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.encode("utf-8", "backslashreplace").decode()  # a file name may hold bytes that are not UTF-8

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "record") -> Self:
        """Read a record; raise `IntegrityError` if it is another kind or schema, malformed, or was changed by hand."""
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{where}: not JSON: {error}") from error
        if not isinstance(data, dict) or data.pop("record", None) != cls.kind:
            raise IntegrityError(f"{where}: not a {cls.kind} record")
        if (schema := data.pop("schema", None)) != cls.version:
            raise IntegrityError(
                f"{where}: {cls.kind} schema {schema}, this edgekd reads {cls.version}",
                mend="read it with the edgekd version named in its made_by, or make it again",
            )
        digest = data.pop("digest", None)
        try:
            record = cls.model_validate(data)
        except ValidationError as error:
            raise IntegrityError(f"{where}: not a valid {cls.kind} record: {_in_one_line(error)}") from error
        if record.digest() != digest:
            raise IntegrityError(
                f"{where}: the digest inside does not match its content; it was changed after it was made",
                mend="make it again, or restore the file",
            )
        return record


def canonical_json(value: Any) -> bytes:
    """Return the one JSON spelling of a value that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON-able value's canonical spelling."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _in_one_line(error: ValidationError) -> str:
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
