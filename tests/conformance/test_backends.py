"""Every registered backend keeps the backend's contract, at every precision that it offers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import edgekd
from edgekd.core import parts
from edgekd.core.contracts import Backend, ExportedFiles
from edgekd.core.errors import EdgekdError, MachineError, UsageError
from edgekd.core.store import sha256_of
from edgekd.testing import export_tiny, tiny_exportable, tiny_student

# Largest difference of a logit from torch's, over logits of about 1. A new precision says here what it promises.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.25}
CASES = [(name, precision) for name in parts.names("backend") for precision in parts.load("backend", name).precisions]
NET = tiny_student()
IMAGE_BCHW = np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)


class Exported(NamedTuple):
    backend: Backend
    folder: Path
    written: ExportedFiles


@pytest.fixture(scope="module", autouse=True)
def a_gpu_that_pretends(tensorrt_fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """TensorRT's Python calls are exercised through a fake that computes with onnxruntime; no GPU is needed or claimed."""
    with tensorrt_fake.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def backend_of(name: str, **options: Any) -> Backend:
    part = parts.load("backend", name)(**options)
    assert isinstance(part, Backend)
    return part


def expected(image_BCHW: np.ndarray) -> Any:
    with torch.no_grad():
        return NET(torch.from_numpy(image_BCHW)).numpy()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, precision = request.param
    folder = tmp_path_factory.mktemp(f"{name}-{precision}")
    backend = backend_of(name, precision=precision)
    exportable = tiny_exportable(NET, metadata={"fact": "one"})
    return Exported(backend, folder, export_tiny(backend, exportable, folder))


@pytest.fixture(params=parts.names("backend"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_backends_are_registered() -> None:
    """The suite runs over something, the three backends of the start among it."""
    assert {"torch", "onnxruntime", "openvino"} <= set(parts.names("backend"))
    assert {precision for _, precision in CASES} <= set(TOLERANCES)


def test_it_has_help_and_fp32(name: str) -> None:
    """One line of help without import; float32 is what every other precision is held against, and the default."""
    assert 20 < len(parts.help_line("backend", name)) <= 110
    assert "fp32" in parts.load("backend", name).precisions
    assert backend_of(name).precision == "fp32"


def test_it_writes_what_it_says(exported: Exported) -> None:
    """The files are there, alone and not empty; one image and one logits, both float32, the batch free."""
    files = exported.written.files
    assert sorted(path.name for path in exported.folder.iterdir()) == sorted(files)
    assert all((exported.folder / file).stat().st_size for file in files)
    (image,), (logits,) = exported.written.inputs, exported.written.outputs
    assert (image.name, image.shape[1:], image.dtype) == ("image", (3, 16, 16), "float32")
    assert (logits.name, logits.shape[1:], logits.dtype) == ("logits", (3,), "float32")
    assert isinstance(image.shape[0], str)
    assert isinstance(logits.shape[0], str)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_answers_like_torch_at_any_batch(exported: Exported, batch: int) -> None:
    """Float32 logits on the host, within what the precision promises, for contiguous and strided images."""
    image_BCHW = IMAGE_BCHW[:batch]
    strided_BCHW = np.ascontiguousarray(image_BCHW.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with exported.backend.open(exported.folder, exported.written.files, threads=1) as session:
        for given_BCHW in (image_BCHW, strided_BCHW):
            found_BK = session.run(given_BCHW)
            assert isinstance(found_BK, np.ndarray)
            assert found_BK.dtype == np.float32
            tolerance = TOLERANCES[exported.backend.precision]
            np.testing.assert_allclose(found_BK, expected(image_BCHW), rtol=0, atol=tolerance)


def test_it_leaves_the_images_and_its_earlier_answers_alone(exported: Exported) -> None:
    """The caller's array is not written to, and an answer does not change when the next one is computed."""
    image_BCHW = IMAGE_BCHW.copy()
    with exported.backend.open(exported.folder, exported.written.files, threads=1) as session:
        first_BK = session.run(image_BCHW)
        kept_BK = first_BK.copy()
        session.run(np.zeros_like(image_BCHW))
    np.testing.assert_array_equal(image_BCHW, IMAGE_BCHW)
    np.testing.assert_array_equal(first_BK, kept_BK)


def test_it_says_what_it_runs_on(exported: Exported) -> None:
    """Device, executed precision and the runtime with its version; float32 is never executed as something else."""
    with exported.backend.open(exported.folder, exported.written.files, threads=1) as session:
        assert session.executed_on
        assert set(session.executed_precision.split("+")) <= {"fp32", "fp16", "bf16", "int8"}
        if exported.backend.precision == "fp32":
            assert session.executed_precision == "fp32"
        runtime, _, version = session.runtime.partition(" ")
        assert runtime.isidentifier()
        assert version[0].isdigit()


@pytest.mark.parametrize(
    "image_BCHW",
    [np.zeros((1, 3, 16, 17), np.float32), np.zeros((3, 16, 16), np.float32), np.zeros((1, 3, 16, 16), np.uint8)],
    ids=["size", "axes", "type"],
)
def test_other_images_are_refused(exported: Exported, image_BCHW: np.ndarray) -> None:
    """One message with both shapes, and the session goes on working."""
    with exported.backend.open(exported.folder, exported.written.files, threads=1) as session:
        with pytest.raises(UsageError, match="takes float32 images of shape batch x 3 x 16 x 16"):
            session.run(image_BCHW)
        assert session.run(IMAGE_BCHW).shape == (5, 3)


def test_a_left_session_does_not_answer(exported: Exported) -> None:
    """Leaving the block frees the runtime; there is no answer from a freed model."""
    with exported.backend.open(exported.folder, exported.written.files, threads=1) as session:
        session.run(IMAGE_BCHW)
    with pytest.raises(RuntimeError, match="closed"):
        session.run(IMAGE_BCHW)


def test_the_thread_count_of_the_process_is_left_as_it_was(exported: Exported) -> None:
    """torch's threads are the whole process's; a session gives them back."""
    before = torch.get_num_threads()
    for threads in (1, 2):
        if threads <= (os.cpu_count() or 1):
            with exported.backend.open(exported.folder, exported.written.files, threads=threads) as session:
                session.run(IMAGE_BCHW)
    assert torch.get_num_threads() == before


def test_a_fixed_batch_is_fixed(name: str, tmp_path: Path) -> None:
    """It is in the interface, answers alike, and another batch is refused."""
    backend = backend_of(name, batch=2)
    written = backend.export(tiny_exportable(NET), tmp_path)
    assert [spec.shape[0] for spec in (*written.inputs, *written.outputs)] == [2, 2]
    with backend.open(tmp_path, written.files, threads=1) as session:
        np.testing.assert_allclose(session.run(IMAGE_BCHW[:2]), expected(IMAGE_BCHW[:2]), rtol=0, atol=1e-5)
        with pytest.raises(UsageError, match="2 x 3 x 16 x 16, not float32 3 x 3 x 16 x 16"):
            session.run(IMAGE_BCHW[:3])


def test_the_file_carries_classes_contract_and_facts(exported: Exported) -> None:
    """Whoever finds the files alone can prepare an image and name the answer."""
    content = b"".join((exported.folder / file).read_bytes() for file in exported.written.files)
    for word in (b"class_0", b"class_2", b"resize_px", b"normalisation_inside", b"bilinear", b"fact"):
        assert word in content


def test_options_that_it_does_not_have_are_refused(name: str) -> None:
    """A misspelt option, a precision that the backend does not offer, a batch of nothing."""
    for options in ({"no_such_option": 1}, {"precision": "fp3"}, {"batch": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            backend_of(name, **options)


def test_a_broken_file_is_one_message(exported: Exported, tmp_path: Path) -> None:
    """Each file cut short, and each missing, is an error that edgekd explains, not the runtime's traceback."""
    contents = {file: (exported.folder / file).read_bytes() for file in exported.written.files}
    for broken in contents:
        for left in (len(contents[broken]) // 2, None):
            for file, content in contents.items():
                (tmp_path / file).write_bytes(content[:left] if file == broken else content)
            if left is None:
                (tmp_path / broken).unlink()
            with pytest.raises(EdgekdError):
                exported.backend.open(tmp_path, exported.written.files, threads=1)


def test_a_missing_package_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked to work without its runtime, it names the package and the command."""
    backend = backend_of(name)
    missing = backend.requires[0]
    find_spec = parts.importlib.util.find_spec
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda n: None if n == missing else find_spec(n))
    for work in (lambda: backend.export(tiny_exportable(NET), tmp_path), lambda: backend.open(tmp_path, ("x",), threads=1)):
        with pytest.raises(MachineError, match=rf"{missing}, which is not installed(.|\n)*pip install"):
            work()


def test_listing_and_loading_imports_no_runtime() -> None:
    """The classes of all backends are loaded in a fresh process; torch and the runtimes are not."""
    code = """
import sys
from edgekd.core import parts
loaded = [parts.load("backend", name) for name in parts.names("backend")]
print(sorted({"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "numpy"} & set(sys.modules)), len(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[] {len(parts.names('backend'))}"


@pytest.fixture(scope="module")
def other_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case exported once more, by another process in another folder with another hash seed."""
    root = tmp_path_factory.mktemp("elsewhere")
    code = f"""
from pathlib import Path
from edgekd.core import parts
from edgekd.testing import export_tiny, tiny_exportable
for name, precision in {CASES!r}:
    folder = Path(name + "-" + precision)
    folder.mkdir()
    export_tiny(parts.load("backend", name)(precision=precision), tiny_exportable(metadata={{"fact": "one"}}), folder)
"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    return root


def test_the_same_weights_give_the_same_bytes_in_another_process(exported: Exported, other_process: Path) -> None:
    """An artifact can be made again and checked by its sha256."""
    folder = other_process / exported.backend.artifact_name
    for file in exported.written.files:
        assert sha256_of(folder / file) == sha256_of(exported.folder / file), file


def test_no_file_names_this_machine(exported: Exported) -> None:
    """No path of the package, the interpreter, the tests or the home folder, and no stack trace, is left in a file."""
    places = (edgekd.__file__, torch.__file__, sys.prefix, __file__, str(Path.home()), str(exported.folder), str(Path.cwd()))
    private = {str(Path(place).parent if place.endswith(".py") else place) for place in places} - {"/"}
    for file in exported.written.files:
        content = (exported.folder / file).read_bytes()
        assert not [place for place in private if place.encode() in content]
        assert b"Traceback" not in content
        assert b"site-packages" not in content
