"""Files of class names: one column or several, with an index or headings or without."""

from pathlib import Path

import pytest

from edgekd.core.class_names import read_class_names
from edgekd.core.errors import DataError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\n\r\n dog ", ("cat", "dog")),
        ("\ufeffcat\ndog", ("cat", "dog")),
        ("0\tn01\ttench\n1\tn02\tgoldfish\n", ("tench", "goldfish")),
        ("index\twnid\tname\n0\tn01\ttench\n1\tn02\tgoldfish\n", ("tench", "goldfish")),
        ("n01\tcrane\nn02\tcrane\n", ("n01", "n02")),
        ("a dog, a cat\ntwo words\n", ("a dog, a cat", "two words")),
    ],
)
def test_the_order_of_the_lines_is_that_of_the_outputs(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """The last column whose names are unique names the classes."""
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "classes.txt").names == names


def test_a_class_is_found_by_any_name_that_is_its_own(tmp_path: Path) -> None:
    """Not by one that two classes share."""
    (tmp_path / "classes.txt").write_text("0\tn01\tcrane\tbird\n1\tn02\tcrane\tmachine\n")
    assert read_class_names(tmp_path / "classes.txt").index == {"n01": 0, "n02": 1, "bird": 0, "machine": 1}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"cat\ncat\n", b"a\tb\nc\n", b"a\t\nb\tc\n", b"\xff\xfe", None])
def test_what_does_not_name_each_class_once_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """With the file's name."""
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.txt"):
        read_class_names(tmp_path / "classes.txt")
