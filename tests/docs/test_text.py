"""Links lead somewhere, and no tracked text tells of the machine it was written on."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written with brackets, so that this file does not find itself.
PRIVATE = re.compile(
    r"/wor[k]/|/roo[t]/|/tm[p]/x/|/opt/(?:wheel[s]|pyp[i])|pythonhoste[d]|pypi\.or[g]/simple|registry\.npmj[s]|deb\.debia[n]\.org"
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def tracked() -> list[Path]:
    """Return the repository's files, those about to be added included."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or to no heading."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            broken.append(link)
    return broken


def private_lines(text: str) -> list[str]:
    """Return the lines that name a machine's own paths or a package registry's hosts."""
    return [line for line in text.splitlines() if PRIVATE.search(line)]


PAGES = [path for path in tracked() if path.suffix == ".md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading of it."""
    assert broken_links(page) == []


def test_the_pages_that_users_were_promised_are_there() -> None:
    """And the licence is the standard text."""
    names = {path.name for path in tracked() if path.parent == ROOT}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", "constraints.txt"} <= names
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert len(licence.encode()) == 11358


def test_no_tracked_text_names_a_machine_or_a_registry() -> None:
    """Paths and hosts of the machine it was written on help nobody and tell too much."""
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{path.relative_to(ROOT)}: {line[:120]}" for line in private_lines(content.decode("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "line", ["see /wor" + "k/main/x", "/roo" + "t/.cache", "https://pypi.or" + "g/simple/x", "files.pythonhoste" + "d.org"]
)
def test_a_private_line_is_found(line: str) -> None:
    """The check can fail."""
    assert private_lines(f"fine\n{line}\nfine") == [line]


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file and a missing heading are; a good one, a foreign one and an image's are not."""
    (tmp_path / "there.md").write_text("# A title, here\n")
    page = tmp_path / "page.md"
    good = "[a](there.md) [b](there.md#a-title-here) [c](https://x.y/z) [d](#mine)"
    page.write_text(f"## Mine\n{good} [e](gone.md) [f](there.md#gone) [g](#gone)")
    assert broken_links(page) == ["gone.md", "there.md#gone", "#gone"]
