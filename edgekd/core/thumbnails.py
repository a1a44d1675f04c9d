"""Small pictures of the images on which an artifact departs from its student, kept beside it so that a report can show them.

One JSON file: a list of {image, jpeg in base64}, the worst first; `jpeg` is empty for an image that cannot be read any more.
Pictures are made of pixels only: no EXIF, no colour profile, no name of a file. Whoever reads them believes nothing: what is
not the record's file, too large, or no JPEG is refused.
"""

import base64
import binascii
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.core.contracts import ImageSet
from edgekd.core.errors import DataError, IntegrityError
from edgekd.core.records import FileRef
from edgekd.core.store import checked_file, file_ref, write_text

FILE = "flips.json"
MOST = 24
SIDE_PX = 128
MOST_BYTES = 12_000  # of one picture; 24 of them in base64 make at most 390 kB of page
_QUALITIES = (82, 65, 45, 25)
_HEAD, _END = b"\xff\xd8\xff", b"\xff\xd9"


def write_thumbnails(images: ImageSet, indices: Sequence[int], folder: Path) -> FileRef | None:
    """Write small pictures of these images, at most `MOST`, into `folder`; None if there are none to write."""
    pictures = [{"image": images.samples[index].id, "jpeg": _small(images, index)} for index in indices[:MOST]]
    if not pictures:
        return None
    write_text(folder / FILE, json.dumps(pictures, indent=1) + "\n")
    return file_ref(folder / FILE, folder=folder)


def read_thumbnails(file: FileRef, *, folder: Path) -> dict[str, str]:
    """Return image id -> JPEG in base64 or "", the worst first; raise `IntegrityError` unless each is a small JPEG."""
    path = checked_file(file, folder=folder)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not JSON: {error}", mend="export again") from error
    if not isinstance(found, list) or len(found) > MOST or not all(map(_is_picture, found)):
        raise IntegrityError(f"{path}: holds something else than at most {MOST} small pictures", mend="export again")
    return {entry["image"]: entry["jpeg"] for entry in found}


def _small(images: ImageSet, index: int) -> str:
    """Return an image as a small JPEG in base64, "" if it cannot be read or made small enough."""
    from PIL import Image

    try:
        picture = Image.fromarray(images.load(index)).convert("RGB")
    except DataError:
        return ""
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=quality, optimize=True)
        if held.tell() <= MOST_BYTES:
            return base64.b64encode(held.getvalue()).decode("ascii")
    return ""


def _is_picture(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"image", "jpeg"} or not all(isinstance(v, str) for v in entry.values()):
        return False
    if len(entry["jpeg"]) > 4 * MOST_BYTES // 3 + 4:
        return False
    try:
        jpeg = base64.b64decode(entry["jpeg"], validate=True)
    except (binascii.Error, ValueError):
        return False
    return not jpeg or (jpeg.startswith(_HEAD) and jpeg.endswith(_END))
