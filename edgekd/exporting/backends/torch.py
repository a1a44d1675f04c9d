"""The torch baseline."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from edgekd.core.contracts import Backend, Exportable, ExportedFiles
from edgekd.core.errors import MachineError
from edgekd.core.parts import need_packages
from edgekd.exporting.interface import Batch, check_input

if TYPE_CHECKING:
    import numpy as np

_PROGRAM, _WEIGHTS = "program.json", "weights.safetensors"


class Torch(Backend):
    """PyTorch on the CPU: the baseline that the other runtimes are held against; fp32 only.

    float16 would run, but torch has no fast float16 kernels for most CPUs: convolutions take ten to fifty times as long.
    """

    requires = ("torch", "safetensors")
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    several_outputs: ClassVar[bool] = True
    precision: Literal["fp32"] = "fp32"
    batch: Batch = "dynamic"

    def export(self, exportable: Exportable, folder: Path) -> ExportedFiles:
        """Write the traced program as JSON and its weights as safetensors; nothing in them is ever unpickled."""
        need_packages(self)
        from edgekd.exporting import program

        text, weights = program.write(exportable, self.batch)
        (folder / _PROGRAM).write_bytes(text)
        (folder / _WEIGHTS).write_bytes(weights)
        written = program.Program(text, weights)
        return ExportedFiles(files=(_PROGRAM, _WEIGHTS), inputs=(written.input,), outputs=(written.output, *written.further))

    def open(self, folder: Path, files: Sequence[str], *, threads: int) -> "_Session":
        """Load the program; torch's thread count, which belongs to the whole process, is put back on leaving."""
        need_packages(self)
        try:
            program, weights = ((folder / file).read_bytes() for file in files)
        except OSError as error:
            raise MachineError(f"{folder}: torch cannot load its program: {error}", mend="export it again") from error
        return _Session(program, weights, threads=threads)


class _Session:
    executed_on = "CPU"
    executed_precision = "fp32"

    def __init__(self, text: bytes, weights: bytes, *, threads: int) -> None:
        import torch

        from edgekd.exporting.program import Program

        self.runtime = f"torch {torch.__version__}"
        self._torch = torch
        self._program: Program | None = Program(text, weights)
        self._shape = self._program.input.shape
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    def run(self, image_BCHW: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return self.run_all(image_BCHW)[0]

    def run_all(self, image_BCHW: "np.ndarray[Any, Any]") -> "list[np.ndarray[Any, Any]]":
        """Return every output."""
        check_input(image_BCHW, self._shape)
        if self._program is None:
            raise RuntimeError("this session is closed")
        with self._torch.inference_mode():
            answers = self._program.answers(self._torch.from_numpy(image_BCHW))
        return [answer_BK.float().numpy() for answer_BK in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._program = None
        self._torch.set_num_threads(self._threads_before)
