"""int8 OpenVINO models: by NNCF's post-training quantisation, and from the QDQ graphs that onnxruntime's quantiser makes."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.contracts import Attempt, Calibration, ExportedFiles
from edgekd.core.errors import MachineError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgekd.exporting.onnx_int8 import OnnxQuantiser

_QDQ = {name: f"{name}, from ONNX" for name in ("naive", "average + bias correction", "mse + bias correction")}
_PRESETS = {
    "NNCF": {"preset": "performance", "bias correction": "fast"},
    "NNCF, mixed": {"preset": "mixed", "bias correction": "fast"},
}


class OpenVinoQuantiser:
    """A float32 model that NNCF quantises in several ways; `save` writes a model as the backend does."""

    def __init__(
        self,
        model: Any,
        qdq: "OnnxQuantiser",
        calibration: Calibration,
        save: "Callable[[Any, Path], ExportedFiles]",
        *,
        takes_bytes: bool = False,
        keep_float: Sequence[str] = (),
    ) -> None:
        """Take the float model, which may take bytes.

        Raises `UsageError` if one of `keep_float` is no layer of it, `MachineError` without NNCF.
        """
        if find_spec("nncf") is None:
            raise MachineError(
                "openvino int8 needs the package nncf, which is not installed", mend="pip install 'edgekd[openvino]'"
            )
        with _quietly():
            import nncf  # type: ignore[import-untyped]

        self.engine = f"nncf {nncf.__version__}"
        self._model, self._qdq, self._calibration, self._save = model, qdq, calibration, save
        self._kept = list(keep_float)
        self._fed = _as_bytes if takes_bytes else _as_they_are
        names = {layer.get_friendly_name() for layer in model.get_ops()}
        if unknown := [name for name in keep_float if name not in names]:
            raise UsageError(
                f"`keep_float`: there is no layer {unknown[0]!r} in the OpenVINO model",
                mend="take the names from the model.xml of the fp32 artifact",
            )

    def grid(self) -> tuple[Attempt, ...]:
        """Return the naive QDQ graph, NNCF's presets, and the QDQ graph that keeps most."""
        from_onnx = {attempt.name: attempt for attempt in self._qdq.grid()}
        naive, *others = (self._from_onnx(from_onnx[name], shown) for name, shown in _QDQ.items())
        presets = [self._attempt(name, options, self._plain(options["preset"])) for name, options in _PRESETS.items()]
        return (naive, *presets, *others)

    def careful(self, best: str) -> Iterator[Attempt]:  # noqa: ARG002 - NNCF begins anew
        """Yield what NNCF makes with an eye on the accuracy, bringing layers back to float until it holds."""
        yield self._attempt("NNCF, with accuracy control", {"preset": "mixed", "bias correction": "fast"}, self._controlled)

    def _plain(self, preset: str) -> Callable[[], Any]:
        def make() -> Any:
            import nncf

            return nncf.quantize(
                self._model.clone(),
                self._dataset(),
                preset=nncf.QuantizationPreset(preset),
                subset_size=_count(self._calibration),
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=self._kept),
            )

        return make

    def _controlled(self) -> Any:
        import nncf
        import numpy as np

        def top1(compiled: Any, judged: Any) -> tuple[float, list[float]]:
            request = compiled.create_infer_request()
            right = [
                request.infer([image_BCHW])[compiled.output(0)].argmax(axis=1) == label_B for image_BCHW, label_B in judged
            ]
            right_N = np.concatenate(right)
            return float(right_N.mean()), right_N.astype(float).tolist()

        def judged() -> Iterator[Any]:
            return ((self._fed(x[i : i + 1]), y[i : i + 1]) for x, y in self._calibration.judged() for i in range(len(x)))

        return nncf.quantize_with_accuracy_control(
            self._model.clone(),
            self._dataset(),
            nncf.Dataset(_Again(judged)),
            validation_fn=top1,
            max_drop=self._calibration.max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=_count(self._calibration),
            ignored_scope=nncf.IgnoredScope(names=self._kept),
        )

    def _attempt(self, name: str, options: Mapping[str, str], make: Callable[[], Any]) -> Attempt:
        def write(folder: Path) -> ExportedFiles:
            with _quietly():
                return self._save(make(), folder)

        return Attempt(name=name, options=dict(options), write=write, kept_float=len(self._kept))

    def _from_onnx(self, attempt: Attempt, name: str) -> Attempt:
        def write(folder: Path) -> ExportedFiles:
            import openvino  # type: ignore[import-untyped]

            written = attempt.write(folder)
            model = openvino.Core().read_model((folder / written.files[0]).read_bytes())
            (folder / written.files[0]).unlink()
            return self._save(model, folder)

        return Attempt(name=name, options=attempt.options, write=write, kept_float=attempt.kept_float)

    def _dataset(self) -> Any:
        import nncf

        # One image each: NNCF takes the mean of the extremes over what it is given, and a batch has others than an image.
        return nncf.Dataset(
            _Again(lambda: (self._fed(x[i : i + 1]) for x in self._calibration.batches() for i in range(len(x))))
        )


class _Again:
    """Something to go through as often as one likes."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self._begin()


def _as_they_are(image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return image_BCHW


def _as_bytes(image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return uint8 BHWC: the very bytes that were divided by 255."""
    return (image_BCHW * 255).round().astype("uint8").transpose(0, 2, 3, 1)


def _count(calibration: Calibration) -> int:
    return sum(len(image_BCHW) for image_BCHW in calibration.batches())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the bars and logs of NNCF off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
