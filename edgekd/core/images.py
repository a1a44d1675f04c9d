"""One decoder and one preparation for every picture: training, accuracy, export and latency all see the same pixels.

What a file becomes (Pillow decodes; the bytes decide the format, never the suffix):

    grey, palette, 1-bit, CMYK, YCbCr    RGB as Pillow converts them; JPEG CMYK is taken as Adobe writes it (inverted)
    transparency                         laid on white
    16-bit grey                          scaled by 255 / 65535 and rounded; other 16-bit images keep their high byte
    32-bit integer, float                integers in 0..65535 as 16-bit grey, floats in 0..1 as grey; anything else is refused
    EXIF orientation                     applied; where it cannot be read there is none
    several frames or pages              the first
    cut off, broken, over 64 megapixels  refused; nothing is ever padded

Axes: B batch, C channels, H height, W width.
"""

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError, MachineError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from edgekd.core.contracts import ImageSet
    from edgekd.core.records import InputContract

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 30
BACKGROUND_RGB = (255, 255, 255)

_ORIENTATION_TAG = 0x0112
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_OTHER_MAGIC = {b"GIF8": "GIF", b"%PDF": "PDF", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cjP": "JPEG 2000", b"8BPS": "Photoshop"}
# What Pillow's decoders have been seen to raise on broken files; it documents OSError only.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


class DecodeError(DataError):
    """An image that cannot be used; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: "bytes | Path") -> "np.ndarray[Any, Any]":
    """Return an image file as uint8 RGB HWC, converted as the table at the top of this file says.

    Raises `DecodeError` with a short reason; nothing else comes out of a bad file.
    """
    import numpy as np
    from PIL import ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise MachineError(
            "Pillow was told to pad truncated images, so a broken image could pass for a whole one",
            mend="leave PIL.ImageFile.LOAD_TRUNCATED_IMAGES at False in this process",
        )
    content = read_file(data) if isinstance(data, Path) else data
    if not content:
        raise DecodeError("zero bytes")
    with _pixels_only.quiet():
        image = _opened(content)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DecodeError(f"too large ({width} x {height} px; at most {MAX_PIXELS // 10**6} megapixels)")
        try:
            image.load()
            rgb = _upright(_to_rgb(image), _orientation(image))
        except DecodeError:
            raise
        except _BROKEN as error:
            raise DecodeError(_why(error)) from error
    return np.array(rgb)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file; raise `DecodeError` if it is missing, not a regular file, or cannot be read."""
    try:
        with FileIO(path, "r", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                raise DecodeError("not a regular file")
            if status.st_size > MAX_BYTES:
                raise DecodeError(f"too large ({status.st_size} bytes; at most {MAX_BYTES})")
            return file.read()
    except FileNotFoundError as error:
        raise DecodeError("a link to nothing" if path.is_symlink() else "missing") from error
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror or error})") from error


def prepare(image_HWC: "np.ndarray[Any, Any]", contract: "InputContract") -> "np.ndarray[Any, Any]":
    """Return a uint8 RGB image as the contract says: resized (antialiased) and cropped, float32 CHW divided by 255.

    A contract of bytes is left with uint8 HWC, the very numbers that the others divide; one that resizes inside with the image
    as it was decoded.
    Sizes and offsets are rounded as torchvision and timm round them: long side `int(resize_px * long / short)`, crop offset
    `round((side - size) / 2)`, halves to even. Raises `DataError` if the crop is larger than the resized image.
    """
    import numpy as np

    if contract.takes_bytes:
        return image_HWC if contract.resize_inside else _cut(image_HWC, contract)
    image_CHW = np.empty((3, *contract.size_px), dtype=np.float32)
    _prepare_into(image_CHW, image_HWC, contract)
    return image_CHW


def prepare_batch(imageset: "ImageSet", indices: Sequence[int], contract: "InputContract") -> "np.ndarray[Any, Any]":
    """Return float32 BCHW in [0, 1], or uint8 BHWC for a contract of bytes: the images at `indices`, decoded and prepared.

    Raises `DataError` if images that are resized inside the graph differ in size, so that they are no batch.
    """
    import numpy as np

    if contract.takes_bytes:
        found = [prepare(imageset.load(index), contract) for index in indices]
        if len({image_HWC.shape for image_HWC in found}) > 1:
            raise DataError(
                "images of several sizes are no batch", mend="export with `resize: outside`, or take them one by one"
            )
        return np.stack(found)
    image_BCHW = np.empty((len(indices), 3, *contract.size_px), dtype=np.float32)
    for row, index in enumerate(indices):
        _prepare_into(image_BCHW[row], imageset.load(index), contract)
    return image_BCHW


def _prepare_into(image_CHW: "np.ndarray[Any, Any]", image_HWC: "np.ndarray[Any, Any]", contract: "InputContract") -> None:
    import numpy as np

    cut_HWC = _cut(image_HWC, contract)
    np.divide(cut_HWC.transpose(2, 0, 1), np.float32(255), out=image_CHW, dtype=np.float32)


def _cut(image_HWC: "np.ndarray[Any, Any]", contract: "InputContract") -> "np.ndarray[Any, Any]":
    import numpy as np
    from PIL import Image

    height_px, width_px = contract.size_px
    kernel = Image.Resampling[contract.interpolation.upper()]
    photo = Image.fromarray(image_HWC)
    if contract.crop == "squash":
        photo = photo.resize((width_px, height_px), kernel)
    else:
        photo = _resized_and_cropped(photo, contract, kernel)
    return np.asarray(photo)


def _resized_and_cropped(photo: "Image.Image", contract: "InputContract", kernel: "Image.Resampling") -> "Image.Image":
    height_px, width_px = contract.size_px
    if contract.resize_px < max(height_px, width_px):
        raise DataError(
            f"a crop of {height_px} x {width_px} px cannot be cut out of an image whose short side is {contract.resize_px} px",
            mend="make resize_px at least as large as the longer side of size_px",
        )
    short, long = sorted(photo.size)
    resized_long = int(contract.resize_px * long / short)
    width, height = photo.size
    wide = width > height
    new_width, new_height = (resized_long, contract.resize_px) if wide else (contract.resize_px, resized_long)
    left, top = round((new_width - width_px) / 2), round((new_height - height_px) / 2)
    if new_width * new_height > MAX_PIXELS:
        # A strip of 1 x 10,000 px would become gigabytes on the way to its small crop; cut it out of the original instead.
        across, down = width / new_width, height / new_height
        box = (left * across, top * down, (left + width_px) * across, (top + height_px) * down)
        return photo.resize((width_px, height_px), kernel, box=box)
    if (new_width, new_height) != photo.size:
        photo = photo.resize((new_width, new_height), kernel)
    return photo.crop((left, top, left + width_px, top + height_px))


# -------------------------------------------------------------------------------------------------------------- decoding
def _open_without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO waits for a writer for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _opened(content: bytes) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"too large (at most {MAX_PIXELS // 10**6} megapixels)") from error
    except UnidentifiedImageError as error:
        raise DecodeError(_what_it_is(content)) from error
    except _BROKEN as error:
        raise DecodeError(_why(error)) from error


def _what_it_is(content: bytes) -> str:
    head = content[:512]
    known = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    if known or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return f"truncated or broken ({known or 'WEBP'} header)"
    other = next((name for magic, name in _OTHER_MAGIC.items() if head.startswith(magic)), "")
    if head[4:8] == b"ftyp":
        other = "HEIF, AVIF or video"
    if not other and _is_text(head):
        other = "text"
    return f"not an image that is read here ({other or 'unknown content'}; read are {', '.join(FORMATS)})"


def _is_text(head: bytes) -> bool:
    # The cut at 512 bytes may go through a character; up to three bytes of it are then missing.
    for end in range(len(head), max(len(head) - 4, 0), -1):
        try:
            text = head[:end].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        return all(character.isprintable() or character.isspace() for character in text)
    return False


def _why(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if any(sign in text.lower() for sign in ("truncated", "unexpected end", "not enough", "buffer is not large enough")):
        return "truncated"
    if "could not create decoder object" in text:
        return "truncated or broken (WEBP)"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return f"broken ({text[:80] or type(error).__name__})"


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit_grey(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*BACKGROUND_RGB, 255))
        ground.alpha_composite(rgba)
        return ground.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit_grey(image: "Image.Image") -> "np.ndarray[Any, Any]":
    import numpy as np

    grey_HW = np.asarray(image)
    if image.mode == "F":
        if not (grey_HW.min() >= 0 and grey_HW.max() <= 1):
            raise DecodeError("float pixels outside 0..1, whose white is not known")
        return np.rint(grey_HW * np.float32(255)).astype(np.uint8)
    if grey_HW.min() < 0 or grey_HW.max() > 65535:
        raise DecodeError("integer pixels outside 0..65535, whose white is not known")
    return ((grey_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _orientation(image: "Image.Image") -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: "Image.Image", orientation: int) -> "Image.Image":
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


class _PixelsOnly:
    """Pillow's warnings while images are decoded: a decompression bomb is an error, remarks on metadata are ignored.

    Python's warning filters belong to the process. Many threads decode at once, so the first one in sets the filters and the
    last one out restores them; each thread for itself would restore them in the wrong order.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept = warnings.catch_warnings()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        from PIL.Image import DecompressionBombWarning

        with self._lock:
            if self._inside == 0:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.filterwarnings("error", category=DecompressionBombWarning)
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._kept.__exit__(None, None, None)


_pixels_only = _PixelsOnly()
os.register_at_fork(after_in_child=_pixels_only.reset)
