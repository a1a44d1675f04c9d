"""core/images.py: what every kind of file becomes, what is refused, and that preparing is what timm does, bit for bit."""

import io
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from edgekd.core.errors import DataError, MachineError
from edgekd.core.images import DecodeError, decode, prepare, prepare_batch, read_file
from edgekd.core.records import InputContract

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(content: bytes) -> tuple[int, ...]:
    return tuple(int(value) for value in decode(content)[0, 0])


def photo(height: int = 90, width: int = 120, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def contract(size: int | tuple[int, int], resize: int, interpolation: str = "bicubic", crop: str = "center") -> InputContract:
    size_px = (size, size) if isinstance(size, int) else size
    return InputContract(
        size_px=size_px, resize_px=resize, interpolation=interpolation, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3
    )


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestModes:
    def test_rgb_is_kept_bit_for_bit(self):
        """A lossless RGB image comes back as it was, writable, height first."""
        image = photo(30, 50)
        for kind in ("PNG", "BMP", "TIFF"):
            decoded = decode(encoded(image, kind))
            assert decoded.shape == (30, 50, 3)
            assert decoded.dtype == np.uint8
            assert decoded.flags.writeable
            np.testing.assert_array_equal(decoded, np.asarray(image))

    def test_grey_has_three_equal_channels(self):
        """A greyscale image becomes RGB with equal channels."""
        assert pixel(encoded(Image.new("L", (4, 4), 77))) == (77, 77, 77)

    def test_one_bit_is_black_or_white(self):
        """A 1-bit image becomes 0 and 255."""
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        assert decode(encoded(image)).tolist() == [[[0, 0, 0], [255, 255, 255]]]

    @pytest.mark.parametrize(("alpha", "expected"), [(0, WHITE), (51, (255, 204, 204)), (255, RED)])
    def test_alpha_is_laid_on_white(self, alpha, expected):
        """Red with alpha a is a / 255 of red and the rest of white."""
        assert pixel(encoded(Image.new("RGBA", (2, 2), (*RED, alpha)))) == expected

    def test_grey_with_alpha_is_laid_on_white(self):
        """Black at alpha 51 (a fifth) is grey 204."""
        assert pixel(encoded(Image.new("LA", (2, 2), (0, 51)))) == (204, 204, 204)

    def test_palette_becomes_its_colours(self):
        """A palette image shows its palette, not its indices."""
        image = Image.new("P", (2, 2), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        assert pixel(encoded(image)) == (10, 20, 30)

    @pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
    def test_a_transparent_palette_entry_is_white(self, transparency):
        """Palette transparency, as one index or as a table, is laid on white."""
        image = Image.new("P", (2, 2), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        assert pixel(encoded(image, transparency=transparency)) == WHITE

    def test_a_transparent_colour_is_white(self):
        """RGB and grey PNGs that name one colour as transparent show white there."""
        assert pixel(encoded(Image.new("RGB", (2, 2), RED), transparency=RED)) == WHITE
        assert pixel(encoded(Image.new("L", (2, 2), 9), transparency=9)) == WHITE

    @pytest.mark.parametrize(
        ("ink", "expected"), [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 0), WHITE), ((0, 0, 0, 255), (0, 0, 0))]
    )
    def test_cmyk_is_ink_on_paper(self, ink, expected):
        """Full cyan ink is cyan and no ink is white, also in JPEG, where Adobe writes the inks inverted."""
        image = Image.new("CMYK", (16, 16), ink)
        jpeg = encoded(image, "JPEG", quality=100)
        assert b"Adobe" in jpeg
        np.testing.assert_allclose(pixel(jpeg), expected, atol=2)
        assert pixel(encoded(image, "TIFF")) == expected

    @pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
    def test_sixteen_bit_grey_is_scaled_not_clipped(self, kind, order):
        """16-bit grey v becomes round(v * 255 / 65535)."""
        values = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], dtype=order)
        expected = [0, 0, 1, 1, 128, 255, 255]
        assert decode(encoded(Image.fromarray(values), kind))[0, :, 0].tolist() == expected

    def test_thirty_two_bit_tiffs_have_one_meaning(self):
        """Integers are 16-bit grey, floats are grey in 0..1."""
        integers = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
        assert decode(encoded(integers, "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
        floats = Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32))
        assert decode(encoded(floats, "TIFF"))[0, :, 0].tolist() == [0, 51, 255]

    @pytest.mark.parametrize("value", [np.int32(-1), np.int32(65536), np.float32(255), np.float32(-0.1), np.float32(np.nan)])
    def test_pixels_without_a_known_white_are_refused(self, value):
        """32-bit pixels outside the declared range are refused, not clipped."""
        image = Image.fromarray(np.array([[value, value]]))
        with pytest.raises(DecodeError, match="whose white is not known"):
            decode(encoded(image, "TIFF"))

    def test_the_first_frame_counts(self):
        """Animated WebP and TIFF with pages give their first frame."""
        first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))
        for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
            content = encoded(first, kind, save_all=True, append_images=[second], **options)
            assert pixel(content) == RED

    def test_the_bytes_decide_not_the_name(self, tmp_path):
        """A PNG named .jpg is decoded as the PNG it is."""
        path = tmp_path / "x.jpg"
        path.write_bytes(encoded(Image.new("RGB", (2, 2), RED)))
        assert tuple(decode(path)[0, 0]) == RED


# What a viewer must do with the stored rows and columns, from the EXIF definition of tag 0x0112.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_is_applied_once(self, kind, orientation):
        """All eight orientations are undone in every format that carries them."""
        stored = np.zeros((32, 48, 3), dtype=np.uint8)
        stored[:16, :16], stored[:16, 16:], stored[16:, :16] = RED, (0, 255, 0), (0, 0, 255)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        decoded = decode(encoded(Image.fromarray(stored), kind, exif=exif, **options))
        np.testing.assert_allclose(decoded, TURNS[orientation](stored), atol=6)

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff"]
    )
    def test_unreadable_exif_turns_nothing(self, exif):
        """Broken metadata neither fails the pixels nor warns."""
        image = photo(16, 24)
        assert decode(encoded(image, "JPEG", exif=exif)).shape == (16, 24, 3)

    def test_an_unknown_orientation_turns_nothing(self):
        """Orientation 9 does not exist; the image stays as it is stored."""
        exif = Image.Exif()
        exif[0x0112] = 9
        assert decode(encoded(photo(16, 24), "JPEG", exif=exif)).shape == (16, 24, 3)


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "zero bytes"),
            (b"hello, I am a label file\n" * 40, "text"),
            ("é".encode() * 400, "text"),
            (bytes(range(256)), "unknown content"),
            (b"GIF89a" + bytes(50), "GIF"),
            (b"\0\0\0\x1cftypheic" + bytes(50), "HEIF"),
            (b"\xff\xd8\xff\xe0\x00", "truncated or broken .JPEG header"),
            (png_header(4, 4), "truncated"),
            (png_header(8001, 8000), "too large .8001 x 8000 px"),
            (png_header(10_000, 10_000), "too large"),
            (png_header(50_000, 50_000), "too large"),
        ],
    )
    def test_each_has_its_reason(self, content, reason):
        """Whatever is no usable image is refused with a reason of a few words, and without a warning."""
        with pytest.raises(DecodeError, match=reason) as caught:
            decode(content)
        assert caught.value.reason == str(caught.value)
        assert "\n" not in caught.value.reason

    def test_gif_is_not_read_although_pillow_could(self):
        """Only the five declared formats are opened."""
        with pytest.raises(DecodeError, match="GIF"):
            decode(encoded(Image.new("L", (4, 4)), "GIF"))

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WEBP", {}),
            ("WEBP", {"lossless": True}),
            ("BMP", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "jpeg"}),
        ],
    )
    def test_a_cut_file_is_refused_or_whole(self, kind, options):
        """Cut anywhere, a file either is refused or still had all of its pixels: nothing is padded."""
        content = encoded(photo(), kind, **options)
        whole = decode(content)
        cuts = sorted(
            {*range(1, 40), *(len(content) * part // 40 for part in range(1, 40)), *range(len(content) - 30, len(content))}
        )
        refused = 0
        for cut in cuts:
            try:
                decoded = decode(content[:cut])
            except DecodeError:
                refused += 1
            else:
                np.testing.assert_array_equal(decoded, whole)
        assert refused > len(cuts) // 2

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
    def test_nothing_but_decode_errors_comes_out(self, kind):
        """Random damage gives an image or a DecodeError, never another exception and never a warning."""
        content = encoded(photo(24, 32), kind)
        draw = random.Random(kind)
        outcomes = set()
        for attempt in range(150):
            damaged = bytearray(content)
            for _ in range(draw.randint(1, 6)):
                damaged[draw.randrange(len(damaged) if attempt % 2 else min(len(damaged), 120))] = draw.randrange(256)
            try:
                outcomes.add(decode(bytes(damaged)).dtype.name)
            except DecodeError:
                outcomes.add("refused")
        assert "refused" in outcomes

    def test_paths_that_are_no_files(self, tmp_path):
        """Missing files, folders, FIFOs and links to nothing are refused at once, each with its reason."""
        (tmp_path / "folder.jpg").mkdir()
        os.mkfifo(tmp_path / "fifo.jpg")
        (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
        reasons = {
            "folder.jpg": "directory",
            "fifo.jpg": "not a regular file",
            "link.jpg": "a link to nothing",
            "no.jpg": "missing",
        }
        for name, reason in reasons.items():
            with pytest.raises(DecodeError, match=reason):
                read_file(tmp_path / name)

    def test_a_file_of_gigabytes_is_not_read(self, tmp_path):
        """A file larger than any allowed image is refused by its size alone."""
        path = tmp_path / "huge.bmp"
        with path.open("wb") as file:
            file.truncate((1 << 30) + 1)
        with pytest.raises(DecodeError, match="too large"):
            decode(path)

    def test_padding_switched_on_elsewhere_is_noticed(self, monkeypatch):
        """If another library let Pillow pad truncated images, decoding refuses to go on."""
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(MachineError, match="pad truncated"):
            decode(encoded(photo()))


class TestGlobalState:
    def test_warning_filters_are_as_before(self):
        """Many threads decoding good and bad images leave the process's warning filters and Pillow's settings alone."""
        before = list(warnings.filters)
        settings = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        good, bomb = encoded(photo(), "JPEG"), png_header(10_000, 10_000)

        def attempt(content: bytes) -> bool:
            try:
                return decode(content) is not None
            except DecodeError:
                return False

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(attempt, [good, bomb] * 50)) == [True, False] * 50
        assert list(warnings.filters) == before
        assert settings == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)

    def test_no_warning_gets_out(self):
        """Under a program's own filters a bomb is an error without a warning, and a remark on metadata is not shown."""
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with pytest.raises(DecodeError, match="too large"):
                decode(png_header(10_000, 10_000))
            decode(encoded(photo(16, 24), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
        assert shown == []

    def test_the_filters_hold_until_the_last_thread_is_done(self):
        """A thread that finishes first does not take the filters away from the others."""
        from edgekd.core import images

        with images._pixels_only.quiet():
            with images._pixels_only.quiet():
                pass
            warnings.warn_explicit("corrupt metadata", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
        with pytest.warns(UserWarning, match="corrupt metadata"):
            warnings.warn_explicit("corrupt metadata", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_fork_during_decoding_can_decode(self):
        """A data worker forked while another thread holds the guard does not wait for it."""
        from edgekd.core import images

        content = encoded(photo(), "JPEG")
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with images._pixels_only._lock:
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if decode(content).shape == (90, 120, 3) else 1)
        try:
            assert os.waitpid(child, 0)[1] == 0
        finally:
            release.set()
            thread.join()

    def test_importing_it_imports_no_library(self):
        """core/images.py is importable without NumPy, Pillow or torch being loaded."""
        code = "import sys, edgekd.core.images; print(sorted({'numpy', 'PIL', 'torch'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestPrepare:
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
    @pytest.mark.parametrize("shape", [(101, 77), (224, 224), (37, 41), (97, 240), (250, 249), (17, 90)])
    def test_equals_timm_bit_for_bit(self, shape, interpolation):
        """The uint8 crop equals timm's evaluation transform for odd sizes and crop shares, and so does the float image."""
        from timm.data import create_transform

        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for size, share in ((96, 0.875), (97, 0.95), (64, 0.9), (80, 1.0)):
            options = {"input_size": (3, size, size), "interpolation": interpolation, "crop_pct": share}
            uint8_CHW = np.asarray(create_transform(**options, use_prefetcher=True)(Image.fromarray(image)))
            ours = prepare(image, contract(size, int(size / share), interpolation))
            assert ours.dtype == np.float32
            assert ours.flags.c_contiguous
            np.testing.assert_array_equal(np.rint(ours * 255).astype(np.uint8), uint8_CHW)
            floats = create_transform(**options, mean=(0.0,) * 3, std=(1.0,) * 3)(Image.fromarray(image)).numpy()
            np.testing.assert_array_equal(ours, floats)

    def test_a_non_square_crop_is_height_by_width(self):
        """`size_px` is (height, width); the crop is centred in both."""
        image = np.zeros((100, 100, 3), dtype=np.uint8)
        image[30:70, 10:90] = 255
        assert prepare(image, contract((40, 80), 100)).min() == 1.0
        assert prepare(image, contract((40, 82), 100)).min() == 0.0

    def test_squash_ignores_the_aspect(self):
        """`crop: squash` resizes both sides to the size, as timm's squash with a crop share of 1."""
        from timm.data import create_transform

        image = np.asarray(photo(61, 130))
        theirs = create_transform(
            input_size=(3, 48, 48), interpolation="bilinear", crop_pct=1.0, crop_mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3
        )(Image.fromarray(image))
        np.testing.assert_array_equal(prepare(image, contract(48, 48, "bilinear", crop="squash")), theirs.numpy())

    def test_a_crop_larger_than_the_image_is_refused(self):
        """Nothing is padded: a crop that does not fit is an error that says how to mend it."""
        with pytest.raises(DataError, match="cannot be cut out") as caught:
            prepare(np.zeros((10, 10, 3), dtype=np.uint8), contract((32, 64), 48))
        assert "resize_px" in caught.value.mend

    def test_a_long_strip_costs_no_gigabytes(self):
        """A 1 x 10,000 strip, 2.5 million pixels long when resized, still gives its centre."""
        strip = np.zeros((1, 10_000, 3), dtype=np.uint8)
        strip[:, 5000:] = 255
        prepared = prepare(strip, contract(224, 256, "bilinear"))
        assert prepared.shape == (3, 224, 224)
        assert prepared[0, :, 0].max() < 0.5 < prepared[0, :, -1].min()

    def test_a_batch_is_its_images(self):
        """`prepare_batch` decodes and prepares the images at the given indices, in that order."""

        class Two:
            samples = ()
            arrays = (np.asarray(photo(seed=1)), np.asarray(photo(50, 70, seed=2)))

            def __len__(self) -> int:
                return 2

            def load(self, index: int):
                return self.arrays[index]

        spec = contract(32, 40)
        batch = prepare_batch(Two(), [1, 0, 1], spec)
        assert batch.shape == (3, 3, 32, 32)
        for row, index in enumerate([1, 0, 1]):
            np.testing.assert_array_equal(batch[row], prepare(Two.arrays[index], spec))


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path):
    """`decode` takes bytes or a path."""
    path = tmp_path / "x.webp"
    path.write_bytes(encoded(photo(), "WEBP"))
    np.testing.assert_array_equal(decode(path), decode(path.read_bytes()))
