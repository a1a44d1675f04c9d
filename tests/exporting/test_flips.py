"""Which flips are the worst, and the small pictures of them that a report shows."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core import thumbnails
from edgekd.core.contracts import Sample
from edgekd.core.errors import DataError, IntegrityError
from edgekd.core.store import file_ref
from edgekd.exporting.flips import worst_first


class Pictures:
    """Images of one colour each; image 2 cannot be read any more."""

    def __init__(self, count: int, *, side_px: int = 300) -> None:
        self.samples = [Sample(id=f"val/{i}.jpg", label=0, locator=i) for i in range(count)]
        self._side_px = side_px

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> np.ndarray:
        """Return a picture with the index as its red."""
        if index == 2:
            raise DataError("val/2.jpg: gone")
        return np.full((self._side_px, 2 * self._side_px, 3), (index, 90, 200), dtype=np.uint8)


def test_lost_answers_come_first_and_gained_ones_last() -> None:
    """Of four flips: two lost (the surer first), one wrong before and after, one gained; agreements are none."""
    torch_NK = np.array([[2.0, 0, 0], [5.0, 0, 0], [0, 3.0, 0], [0, 2.0, 0], [9.0, 0, 0]])
    runtime_NK = np.array([[0, 2.0, 0], [0, 5.0, 0], [3.0, 0, 0], [0, 0, 2.0], [8.0, 0, 0]])
    assert worst_first(torch_NK, runtime_NK, [0, 0, 0, 0, 0]) == [1, 0, 3, 2]


def test_no_answer_is_a_flip() -> None:
    """A NaN on either side differs from every answer, and from another NaN."""
    sure, broken = [1.0, 0.0], [np.nan, 0.0]
    assert worst_first(np.array([sure, broken, broken]), np.array([broken, sure, broken]), [0, 0, 0]) == [0, 2, 1]


def test_pictures_are_small_and_come_back_in_order(tmp_path: Path) -> None:
    """Each at most 128 px and 12 kB, with nothing but pixels; one that cannot be read has its name only."""
    file = thumbnails.write_thumbnails(Pictures(5), [3, 2, 0], tmp_path)
    assert file is not None
    found = thumbnails.read_thumbnails(file, folder=tmp_path)
    assert list(found) == ["val/3.jpg", "val/2.jpg", "val/0.jpg"]
    assert found["val/2.jpg"] == ""
    picture = Image.open(io.BytesIO(base64.b64decode(found["val/3.jpg"])))
    assert (picture.format, picture.size, dict(picture.getexif())) == ("JPEG", (128, 64), {})
    assert np.abs(np.asarray(picture).astype(int).mean(axis=(0, 1)) - (3, 90, 200)).max() < 4


def test_noise_is_made_small_enough_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that does not compress is stored with less quality; if even that is too large, without a picture."""
    noisy = Pictures(1)
    noisy.load = lambda index: np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 9_000)
    file = thumbnails.write_thumbnails(noisy, [0], tmp_path)
    assert 0 < len(base64.b64decode(thumbnails.read_thumbnails(file, folder=tmp_path)["val/0.jpg"])) <= 9_000
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 500)
    assert thumbnails.read_thumbnails(thumbnails.write_thumbnails(noisy, [0], tmp_path), folder=tmp_path) == {"val/0.jpg": ""}


def test_at_most_24_pictures_and_none_for_no_flip(tmp_path: Path) -> None:
    """However many images flip, the page stays small; without a flip there is no file."""
    file = thumbnails.write_thumbnails(Pictures(60, side_px=8), [i for i in range(60) if i != 2], tmp_path)
    assert len(thumbnails.read_thumbnails(file, folder=tmp_path)) == 24
    assert thumbnails.write_thumbnails(Pictures(1), [], tmp_path / "none") is None


JPEG = base64.b64encode(b"\xff\xd8\xff rest \xff\xd9").decode()


@pytest.mark.parametrize(
    "content",
    [
        "rubbish",
        "{}",
        json.dumps([{"image": "a", "jpeg": JPEG}] * 25),
        json.dumps([{"image": "a"}]),
        json.dumps([{"image": "a", "jpeg": JPEG, "x": "y"}]),
        json.dumps([{"image": "a", "jpeg": 3}]),
        json.dumps([{"image": "a", "jpeg": '"><script>'}]),
        json.dumps([{"image": "a", "jpeg": base64.b64encode(b"<svg onload=alert(1)>").decode()}]),
        json.dumps([{"image": "a", "jpeg": base64.b64encode(b"\xff\xd8\xff" + bytes(12_100) + b"\xff\xd9").decode()}]),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: str) -> None:
    """Whoever wrote the file: only small JPEGs reach the page."""
    (tmp_path / "flips.json").write_text(content)
    with pytest.raises(IntegrityError):
        thumbnails.read_thumbnails(file_ref(tmp_path / "flips.json", folder=tmp_path), folder=tmp_path)


def test_a_picture_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    """The file must be the record's."""
    file = thumbnails.write_thumbnails(Pictures(1), [0], tmp_path)
    (tmp_path / "flips.json").write_text(json.dumps([{"image": "val/0.jpg", "jpeg": JPEG}]))
    with pytest.raises(IntegrityError):
        thumbnails.read_thumbnails(file, folder=tmp_path)
