"""What Markdown documents share: names shown and never obeyed, tables, and a size that code hosts accept."""

import re
from collections.abc import Iterable, Sequence

from edgekd.judging import wording

_SAFE_CODE = re.compile(r"[A-Za-z0-9 ._/@+-]*")
_BREAK = "&#8203;"
_ISSUE = re.compile(r"(?<=\bGH)-(?=\d)", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{7,40}")


def prose(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no link, and nobody is mentioned."""
    escaped = re.sub(r"[\\`<>&|$]", _entity, wording.plain(text))
    escaped = re.sub(r"[*~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", escaped)
    escaped = re.sub(r"(?<!&)#|@", lambda found: _entity(found) + _BREAK, escaped)
    escaped = _ISSUE.sub(f"-{_BREAK}", escaped)
    escaped = re.sub(r":(?=[a-z0-9_+-]+:)", f":{_BREAK}", escaped)  # :shipit: is a picture
    return re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)", _BREAK, escaped, flags=re.IGNORECASE)


def code(text: str) -> str:
    """Return text as code; a code span where that is safe, else an element with everything in it escaped."""
    if text and _SAFE_CODE.fullmatch(text) and text == text.strip():
        return f"`{text}`"
    return f"<code>{prose(text)}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fitted(text: str, *, most_bytes: int, note: str, closing: str = "") -> str:
    """Return the document cut after a whole line so that it has at most `most_bytes` bytes of UTF-8, and says that it was cut.

    Every row of a table, item of a list and paragraph is one line, so what is left is a document. `closing` ends what the cut
    may have left open.
    """
    if len(text.encode()) <= most_bytes:
        return text
    end = f"\n\n{note}\n{closing}"
    left = most_bytes - len(end.encode())
    kept = text.encode()[: left + 1].rpartition(b"\n")[0]
    return kept.decode() + end


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"
