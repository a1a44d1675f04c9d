"""The programs of a bundle see the pixels that edgekd sees and answer what edgekd answers, without edgekd and without torch.

Pictures of every kind are made here; each becomes a tensor by `edgekd.core.images`, by the Python program and by the C++ one.
"""

import ast
import importlib.util
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgekd import pipeline
from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.images import decode, prepare
from edgekd.core.records import Artifact, FileRef, InputContract, MadeBy, TensorSpec
from edgekd.core.side_records import Bundle
from edgekd.core.store import read_record, write_record

PROGRAMS = Path(__file__).parents[2] / "deploy" / "runtime"
CLASSIFY = PROGRAMS / "python" / "classify.py"
ORIENTATION = 0x0112
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


# ------------------------------------------------------------------------------------------------------------- pictures
def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 6), -(-width // 6), channels), dtype=np.uint8)
    return small.repeat(6, axis=0).repeat(6, axis=1)[:height, :width].squeeze()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block.tobytes()


def tiff(byteorder: str, kind: int, count: int, value: bytes) -> bytes:
    """Return an EXIF block with one entry, the orientation, of any type."""
    mark = b"II*\0" if byteorder == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(byteorder + "IHHHI4sI", 8, 1, ORIENTATION, kind, count, value, 0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, kind: int, rows: list[bytes], width: int, *extra: bytes) -> bytes:
    """Return a PNG written by hand, for what Pillow does not write: 16 bits a channel."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def with_app1(jpeg: bytes, *blocks: bytes) -> bytes:
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks)
    return jpeg[:2] + segments + jpeg[2:]


def pictures() -> Iterator[tuple[str, bytes]]:
    """Yield a name and a file of every kind that C++ reads, none square."""
    rgb = Image.fromarray(noise(60, 83))
    plain = encoded(rgb, "JPEG", quality=90)
    for orientation in range(1, 9):
        yield f"jpeg exif {orientation}", encoded(rgb, "JPEG", exif=exif(orientation))
        yield f"png exif {orientation}", encoded(rgb, "PNG", exif=exif(orientation))
    yield "jpeg 4:4:4", encoded(rgb, "JPEG", subsampling=0)
    yield "jpeg 4:2:2", encoded(rgb, "JPEG", subsampling=1)
    yield "jpeg progressive", encoded(rgb, "JPEG", progressive=True)
    yield "jpeg grey", encoded(rgb.convert("L"), "JPEG")
    yield "jpeg cmyk", encoded(Image.fromarray(noise(60, 83, 4), "CMYK"), "JPEG")
    yield "jpeg exif long", with_app1(plain, tiff(">", 4, 1, struct.pack(">I", 6)))
    yield "jpeg exif text", with_app1(plain, tiff("<", 2, 2, b"6\0\0\0"))
    yield "jpeg exif byte", with_app1(plain, tiff("<", 1, 1, b"\6\0\0\0"))
    yield "jpeg exif 9", with_app1(plain, tiff("<", 3, 1, b"\x09\0\0\0"))
    yield "jpeg exif broken", with_app1(plain, b"Exif\0\0II*\0\xff\xff\0\0", b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
    yield "jpeg exif no tiff", with_app1(plain, b"Exif\0\0rubbish!", b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
    yield "jpeg exif twice", with_app1(plain, b"Exif\0\0Exif\0\0" + exif(8)[6:])
    yield "jpeg exif cut off", with_app1(plain, exif(6)[:14])
    yield "jpeg xmp", with_app1(plain, b"http://ns.adobe.com/xap/1.0/\0" + xmp(8))
    yield "jpeg exif before xmp", with_app1(plain, exif(3), b"http://ns.adobe.com/xap/1.0/\0" + xmp(8))
    yield "png grey", encoded(rgb.convert("L"), "PNG")
    yield "png one bit", encoded(rgb.convert("1"), "PNG")
    yield "png palette", encoded(rgb.quantize(200), "PNG")
    yield "png palette 2 bit", encoded(rgb.quantize(4), "PNG", bits=2)
    yield "png palette alpha", encoded(rgb.quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))
    yield "png palette one clear", encoded(rgb.quantize(16), "PNG", transparency=3)
    yield "png grey alpha", encoded(Image.fromarray(noise(60, 83, 2), "LA"), "PNG")
    yield "png rgba", encoded(Image.fromarray(noise(60, 83, 4), "RGBA"), "PNG")
    yield "png clear colour", encoded(rgb, "PNG", transparency=tuple(noise(60, 83)[0, 0].tolist()))
    yield "png clear grey", encoded(rgb.convert("L"), "PNG", transparency=int(np.asarray(rgb.convert("L"))[0, 0]))
    yield "png clear one bit", encoded(rgb.convert("1"), "PNG", transparency=255)
    deep = np.random.default_rng(1).integers(0, 65536, (50, 70, 4), dtype=np.uint16).astype(">u2")
    yield "png 16 grey", png(16, 0, [row[:, 0].tobytes() for row in deep], 70)
    yield "png 16 rgb", png(16, 2, [row[:, :3].tobytes() for row in deep], 70)
    yield "png 16 grey alpha", png(16, 4, [row[:, :2].tobytes() for row in deep], 70)
    yield "png 16 rgba", png(16, 6, [row.tobytes() for row in deep], 70)
    yield "png 4 bit grey", png(4, 0, [bytes(noise(1, 35)[:, 0].tolist()) for _ in range(40)], 70)
    hexed = exif(6).hex()
    legacy = chunk(b"tEXt", b"Raw profile type exif\0" + f"\nexif\n{len(hexed) // 2}\n{hexed}\n".encode())
    yield "png legacy exif", png(8, 2, [row.tobytes() for row in noise(40, 70)], 70, legacy)
    yield (
        "png xmp",
        png(8, 2, [row.tobytes() for row in noise(40, 70)], 70, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))),
    )
    for height, width in ((7, 5), (32, 32), (32, 500), (900, 33), (31, 33)):
        yield f"png {height} x {width}", encoded(Image.fromarray(noise(height, width, seed=height)), "PNG")
    yield "png strip", encoded(Image.fromarray(noise(1, 9000, seed=3)[None]), "PNG")


PICTURES = dict(pictures())


def contract(size: tuple[int, int], resize: int, interpolation: str, crop: str = "center") -> InputContract:
    return InputContract(
        size_px=size, resize_px=resize, interpolation=interpolation, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3
    )


CONTRACTS = {
    "bicubic": contract((32, 32), 36, "bicubic"),
    "bilinear": contract((32, 32), 32, "bilinear"),
    "lanczos, not square": contract((31, 24), 37, "lanczos"),
    "nearest": contract((32, 32), 36, "nearest"),
    "bicubic squash": contract((24, 40), 24, "bicubic", "squash"),
    "nearest squash": contract((40, 24), 24, "nearest", "squash"),
    "large": contract((160, 160), 182, "bicubic"),
}


def seen_by(rules: InputContract) -> dict[str, bytes]:
    """Return every kind of picture for one contract, and for the others those whose size makes a difference."""
    if rules is CONTRACTS["bicubic"]:
        return PICTURES
    return {name: content for name, content in PICTURES.items() if " x " in name or name in ("png strip", "jpeg 4:4:4")}


def expected(content: bytes, rules: InputContract) -> np.ndarray:
    """Return the uint8 pixels that edgekd gives to a model; dividing by 255 is undone exactly."""
    return np.rint(prepare(decode(content), rules).transpose(1, 2, 0) * 255).astype(np.uint8)


def bundle_of(folder: Path, rules: InputContract, **changes: Any) -> Path:
    """Write a folder with a contract alone, which is enough for pixels."""
    height, width = rules.size_px
    facts = {
        "made_by": MadeBy(version="0"),
        "runtime": "onnxruntime",
        "precision": "fp32",
        "measured_with": "",
        "files": (FileRef(path="model.onnx", size_bytes=0, sha256="0" * 64),),
        "inputs": (TensorSpec(name="image", shape=("batch", 3, height, width), dtype="float32"),),
        "outputs": (TensorSpec(name="logits", shape=("batch", 3), dtype="float32"),),
        "opset": 18,
        "input": rules,
        "classes": ("a", "b", "c"),
        "images": 1,
        "top1_correct": 1,
        "top5_correct": None,
        "top1_agreements": 1,
        "licences": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "contract.json", Bundle.model_validate(facts | changes))
    return folder


def answers(text: str) -> dict[str, float]:
    """Return class -> probability of one image's printed answer, best first."""
    _, *lines = text.splitlines()
    return {name: float(share) for share, name in (line.strip().split("  ", 1) for line in lines)}


def reference(artifact: Path, picture: Path) -> dict[str, float]:
    """Return edgekd's own top 5 for a picture, through the backend that exported the artifact."""
    record = read_record(Artifact, artifact / "artifact.json")
    backend = parts.load("backend", record.backend.use)(**record.backend.options)
    with backend.open(artifact, [ref.path for ref in record.files], threads=1) as session:
        logits_K = session.run(prepare(decode(picture), record.input)[None])[0].astype(np.float64)
    share_K = np.exp(logits_K - logits_K.max()) / np.exp(logits_K - logits_K.max()).sum()
    return {record.classes[index]: float(share_K[index]) for index in np.argsort(-share_K, kind="stable")[:5]}


def same(found: dict[str, float], wanted: dict[str, float]) -> bool:
    return list(found) == list(wanted) and max(abs(found[name] - wanted[name]) for name in wanted) < 1e-3


@pytest.fixture(scope="module")
def bundles(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles")
    pipeline.bundle(tiny_run / "artifacts" / "onnxruntime-fp32", out=out, console=Console(quiet=True))
    if importlib.util.find_spec("openvino") is not None:
        pipeline.bundle(tiny_run / "artifacts" / "openvino-fp32", out=out, console=Console(quiet=True))
    return out


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PICTURES["jpeg exif 6"])
    return path


# ----------------------------------------------------------------------------------------------------------------- Python
@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("classify", CLASSIFY)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alone(folder: Path, *packages: str) -> list[str]:
    """Return the start of a command that runs a Python which can import these packages and the standard library alone."""
    folder.mkdir()
    for package in packages:
        home = Path(importlib.util.find_spec(package).origin).parent
        (folder / package).symlink_to(home)
        for libraries in (f"{package}.libs", "pillow.libs"):
            if (home.parent / libraries).is_dir() and not (folder / libraries).exists():
                (folder / libraries).symlink_to(home.parent / libraries)
    start = (
        f"import importlib.util, runpy, sys; sys.path.append({str(folder)!r});"
        "assert not any(map(importlib.util.find_spec, ('torch', 'edgekd', 'timm', 'pydantic')));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-I", "-S", "-c", start]


class TestThePythonProgram:
    @pytest.mark.parametrize("rules", CONTRACTS.values(), ids=CONTRACTS)
    def test_it_sees_the_same_pixels_bit_for_bit(self, program: ModuleType, rules: InputContract, tmp_path: Path) -> None:
        """Every kind of picture, as edgekd decodes and prepares it."""
        for name, content in seen_by(rules).items():
            path = tmp_path / "picture"
            path.write_bytes(content)
            found = program.prepare(program.decode(path), rules.model_dump(mode="json"))
            np.testing.assert_array_equal(found, expected(content, rules), err_msg=name)

    def test_kinds_that_only_it_reads_are_the_same_too(self, program: ModuleType, tmp_path: Path) -> None:
        """TIFF of floats and of 16 bits, BMP, WebP with transparency."""
        grey = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
        kinds = {
            "float tiff": encoded(Image.fromarray(grey), "TIFF"),
            "16-bit tiff": encoded(Image.fromarray((grey * 65535).astype(np.uint16)), "TIFF"),
            "bmp": encoded(Image.fromarray(noise(40, 60)), "BMP"),
            "webp": encoded(Image.fromarray(noise(40, 60, 4), "RGBA"), "WEBP", lossless=True),
        }
        rules = CONTRACTS["bicubic"]
        for name, content in kinds.items():
            path = tmp_path / "picture"
            path.write_bytes(content)
            found = program.prepare(program.decode(path), rules.model_dump(mode="json"))
            np.testing.assert_array_equal(found, expected(content, rules), err_msg=name)

    def test_its_tensor_is_edgekds(self, program: ModuleType, tmp_path: Path) -> None:
        """Float32 in [0, 1], channels first, to the last bit; a fixed batch is filled with the same image."""
        rules = CONTRACTS["bicubic"]
        content = PICTURES["jpeg 4:4:4"]
        wanted = prepare(decode(content), rules)
        for batch, size in (("batch", 1), (3, 3)):
            spec = {"shape": [batch, 3, 32, 32], "dtype": "float32"}
            found = program.tensor_of(expected(content, rules), {"inputs": [spec]})
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.stack([wanted] * size))

    @pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
    def test_alone_with_its_runtime_it_answers_what_edgekd_answers(
        self, runtime: str, bundles: Path, tiny_run: Path, picture: Path, tmp_path: Path
    ) -> None:
        """In a Python that has numpy, pillow and the runtime, and in which torch and edgekd cannot be imported."""
        python = alone(tmp_path / "packages", "numpy", "PIL", runtime)
        bundle = bundles / f"{runtime}-fp32"
        done = subprocess.run(
            [*python, bundle / "python" / "classify.py", "--threads", "1", picture], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        wanted = reference(tiny_run / "artifacts" / f"{runtime}-fp32", picture)
        assert len(wanted) == 5
        assert same(answers(done.stdout), wanted)

    def test_a_broken_picture_is_refused(self, program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Cut off, of another kind, missing: exit 2 and one line, never padded pixels."""
        path = tmp_path / "picture"
        for content in (PICTURES["jpeg 4:4:4"][:-400], b"GIF89a", b""):
            path.write_bytes(content)
            with pytest.raises(SystemExit) as left:
                program.decode(path)
            assert left.value.code == 2
            assert capsys.readouterr().err.count("\n") == 1

    def test_an_interface_that_it_does_not_know_is_refused(self, program: ModuleType) -> None:
        """Another shape or type than those it was written for: exit 5."""
        pixels = np.zeros((32, 32, 3), np.uint8)
        for spec in ({"shape": ["batch", 1, 32, 32], "dtype": "float32"}, {"shape": ["batch", 3, 32, 32], "dtype": "float16"}):
            with pytest.raises(SystemExit) as left:
                program.tensor_of(pixels, {"inputs": [spec]})
            assert left.value.code == 5

    def test_it_is_written_for_python_3_9(self) -> None:
        """Devices have older Pythons than edgekd needs."""
        ast.parse(CLASSIFY.read_text(encoding="utf-8"), feature_version=(3, 9))


# -------------------------------------------------------------------------------------------------------------------- C++
def onnxruntime_root(folder: Path) -> Path | None:
    """Lay ONNX Runtime's library from the Python package beside its headers, if this machine has them."""
    given = os.environ.get("ONNXRUNTIME_ROOT", "/usr")
    headers = next((path.parent for path in sorted(Path(given, "include").rglob("onnxruntime_cxx_api.h"))), None)
    library = next(iter(Path(importlib.util.find_spec("onnxruntime").origin).parent.glob("capi/libonnxruntime.so.*")), None)
    if headers is None or library is None:
        return None
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(headers)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the C++ programs once: for OpenVINO, whose package brings headers, and for ONNX Runtime where it has some."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("the C++ programs are compiled against the openvino package, which is not installed")
    if missing := [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} cannot be found, so the C++ programs are not compiled")
    folder = tmp_path_factory.mktemp("cpp")
    root = onnxruntime_root(folder / "onnxruntime")
    openvino = Path(importlib.util.find_spec("openvino").origin).parent / "cmake"
    options = [f"-DOpenVINO_DIR={openvino}", f"-DONNXRUNTIME_ROOT={root or folder}", "-DCMAKE_CXX_FLAGS=-Werror"]
    made = subprocess.run(
        ["cmake", "-S", PROGRAMS / "cpp", "-B", folder / "build", *options], capture_output=True, text=True, check=False
    )
    if made.returncode and ("find JPEG" in made.stderr or "find PNG" in made.stderr):
        pytest.skip("the headers of libjpeg and libpng are not installed, so the C++ programs are not compiled")
    assert made.returncode == 0, made.stderr
    made = subprocess.run(["cmake", "--build", folder / "build"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "build"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


class TestTheCppPrograms:
    @pytest.mark.parametrize("rules", CONTRACTS.values(), ids=CONTRACTS)
    def test_they_see_the_same_pixels(self, build: Path, rules: InputContract, tmp_path: Path) -> None:
        """Bit for bit; a JPEG decoder of another make may round otherwise, by at most one level of grey."""
        bundle = bundle_of(tmp_path / "bundle", rules)
        for name, content in seen_by(rules).items():
            path = tmp_path / "picture"
            path.write_bytes(content)
            done = run(build / "classify_openvino", "--bundle", bundle, "--pixels", tmp_path / "pixels", path)
            assert done.returncode == 0, f"{name}: {done.stderr}"
            found = np.fromfile(tmp_path / "pixels", np.uint8).reshape(*rules.size_px, 3)
            apart = np.abs(found.astype(int) - expected(content, rules).astype(int)).max()
            assert apart <= (1 if name.startswith("jpeg") else 0), name

    @pytest.mark.parametrize(
        "kind", ["TIFF", "WEBP", "BMP", "GIF", "cut off jpeg", "cut off png", "empty", "bigtiff", "clear 2 bit"]
    )
    def test_what_they_do_not_read_is_refused(self, build: Path, kind: str, tmp_path: Path) -> None:
        """Rare and broken files: exit 2 and one line, never other pixels than edgekd's."""
        image = Image.fromarray(noise(40, 60))
        plain = encoded(image, "JPEG")
        contents = {
            "cut off jpeg": PICTURES["jpeg 4:4:4"][:-400],
            "cut off png": PICTURES["png rgba"][:-400],
            "empty": b"",
            "bigtiff": with_app1(plain, b"Exif\0\0II+\0\x08\0\0\0"),
            "clear 2 bit": png(2, 0, [bytes(4)] * 4, 16, chunk(b"tRNS", b"\0\1")),
        }
        path = tmp_path / "picture"
        path.write_bytes(contents[kind] if kind in contents else encoded(image, kind))
        bundle = bundle_of(tmp_path / "bundle", CONTRACTS["bicubic"])
        done = run(build / "classify_openvino", "--bundle", bundle, "--pixels", tmp_path / "pixels", path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {path}: ")
        assert not (tmp_path / "pixels").exists()

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_they_answer_what_edgekd_answers(
        self, runtime: str, build: Path, bundles: Path, tiny_run: Path, picture: Path
    ) -> None:
        """The same five classes in the same order, probabilities within 0.001."""
        program = build / f"classify_{runtime}"
        if runtime == "onnxruntime" and not program.is_file():
            pytest.skip("ONNX Runtime's C++ headers are not installed (set ONNXRUNTIME_ROOT); its Python package has none")
        done = run(program, "--bundle", bundles / f"{runtime}-fp32", "--threads", 1, picture)
        assert done.returncode == 0, done.stderr
        assert same(answers(done.stdout), reference(tiny_run / "artifacts" / f"{runtime}-fp32", picture))

    def test_a_bundle_for_another_runtime_is_refused(self, build: Path, bundles: Path, picture: Path) -> None:
        """OpenVINO reads .onnx, but resizes without antialiasing in it: it would answer otherwise than was measured."""
        done = run(build / "classify_openvino", "--bundle", bundles / "onnxruntime-fp32", picture)
        assert done.returncode == 2
        assert "use classify_onnxruntime" in done.stderr

    def test_mistakes_on_the_command_line_are_told(self, build: Path, bundles: Path, picture: Path, tmp_path: Path) -> None:
        """No bundle, no image, an unknown option, a missing file: exit 2."""
        program, bundle = build / "classify_openvino", bundles / "openvino-fp32"
        for arguments in (
            (),
            (picture,),
            ("--bundle", bundle),
            ("--bundle", tmp_path, picture),
            ("--bundle", bundle, "nothing"),
        ):
            assert run(program, *arguments).returncode == 2
        assert "no option --colour" in run(program, "--colour", "red", "--bundle", bundle, picture).stderr

    def test_names_are_read_as_json_says(self, build: Path, tmp_path: Path, picture: Path) -> None:
        """Escapes, surrogate pairs and other scripts come out as UTF-8; what steers a terminal does not come out."""
        bundle = colour_bundle(tmp_path / "bundle", "float32", "openvino")
        facts = json.loads((bundle / "contract.json").read_text(encoding="utf-8"))
        facts["classes"] = ['Käfer 🐞 "x" \\ /', "犬\u001b[31m", "c"]
        for ascii_only in (True, False):
            (bundle / "contract.json").write_text(json.dumps(facts, ensure_ascii=ascii_only), encoding="utf-8")
            done = run(build / "classify_openvino", "--bundle", bundle, picture)
            assert set(answers(done.stdout)) == {'Käfer 🐞 "x" \\ /', "犬?[31m", "c"}


# ------------------------------------------------------------------------------------------- inputs of other types and forms
def colour_bundle(folder: Path, kind: str, runtime: str) -> Path:
    """Write a bundle whose model answers with the mean of each colour, fed as `kind` says: floats, or bytes."""
    sides = {"float32": (3, 32, 32), "bytes": (32, 32, 3), "bytes of any size": ("height", "width", 3)}[kind]
    floats = kind == "float32"
    steps = [
        helper.make_node("ReduceMean", ["unit", "axes"], ["logits"], keepdims=0),
    ]
    if not floats:
        steps = [
            helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["planes"], ["counts"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["counts", "most"], ["unit"]),
            *steps,
        ]
    steps[0].input[0] = "image"
    graph = helper.make_graph(
        steps,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT if floats else TensorProto.UINT8, ("batch", *sides))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            *([] if floats else [helper.make_tensor("most", TensorProto.FLOAT, [], [255.0])]),
        ],
    )
    spec = TensorSpec(name="image", shape=("batch", *sides), dtype="float32" if floats else "uint8")
    bundle_of(folder, CONTRACTS["bicubic"], inputs=(spec,), runtime=runtime)
    if kind == "bytes of any size":
        facts = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        facts["input"]["resize_inside"] = True
        (folder / "contract.json").write_text(json.dumps(facts), encoding="utf-8")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "model.onnx")
    return folder


@pytest.mark.parametrize("kind", ["float32", "bytes", "bytes of any size"])
class TestInputs:
    def wanted(self, kind: str) -> dict[str, float]:
        content = PICTURES["jpeg exif 6"]
        pixels = decode(content) if kind == "bytes of any size" else expected(content, CONTRACTS["bicubic"])
        mean_K = pixels.astype(np.float64).mean(axis=(0, 1)) / 255
        share_K = np.exp(mean_K) / np.exp(mean_K).sum()
        return {"abc"[index]: float(share_K[index]) for index in np.argsort(-share_K)}

    def test_the_python_program_gives_a_model_what_it_takes(self, kind: str, picture: Path, tmp_path: Path) -> None:
        """Floats in [0, 1] or bytes, channels first or last, prepared or as decoded."""
        bundle = colour_bundle(tmp_path / "bundle", kind, "onnxruntime")
        command = [sys.executable, CLASSIFY, "--bundle", bundle, "--threads", "1", picture]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert same(answers(done.stdout), self.wanted(kind))

    def test_the_cpp_program_gives_a_model_what_it_takes(self, kind: str, build: Path, picture: Path, tmp_path: Path) -> None:
        """Likewise."""
        bundle = colour_bundle(tmp_path / "bundle", kind, "openvino")
        done = run(build / "classify_openvino", "--bundle", bundle, "--threads", 1, picture)
        assert done.returncode == 0, done.stderr
        assert same(answers(done.stdout), self.wanted(kind))
