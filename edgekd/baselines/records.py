"""What a store holds beside the files themselves: which files a run consists of, and which run a name stands for."""

from typing import ClassVar

from edgekd.core.records import FileRef, Record


class KeptRun(Record):
    """The files of one run that a later gate needs; paths are relative to the run folder, contents lie under their sha256.

    `report` and `verdict` are the digests of those records; `models` says whether the exported models are among the files.
    """

    kind: ClassVar[str] = "kept_run"
    recipe: str
    outcome: str
    report: str
    verdict: str
    models: bool
    files: tuple[FileRef, ...]


class Named(Record):
    """The run that a name stands for: the sha256 of its `KeptRun` record's file; `before` is that of the run it replaced."""

    kind: ClassVar[str] = "baseline"
    name: str
    kept: str
    before: str
