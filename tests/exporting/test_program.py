"""The torch program: exact, plain data, and unable to do anything but compute."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from edgekd.core.errors import IntegrityError, UsageError
from edgekd.exporting import program
from edgekd.testing import tiny_exportable, tiny_student

IMAGE_BCHW = torch.from_numpy(np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32))


class _Attention(nn.Module):
    """What a convolutional student does not use: reshapes by the batch size, chunks, attention, types and layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(48, 24)
        self.register_buffer("order", torch.arange(16).flip(0), persistent=False)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        batch = image_BCHW.shape[0]
        tokens = image_BCHW.reshape(batch, 16, 48)[:, self.order]
        q, k, v = self.into(tokens).reshape(batch, 16, 3, 8).permute(2, 0, 1, 3).unbind(0)
        found = nn.functional.scaled_dot_product_attention(q, k, v).to(torch.float64).contiguous()
        empty = torch.zeros(batch, 3, dtype=torch.float64, device=found.device)
        return torch.cat([found.mean(1)[:, :3] + empty, found.amax(1)[:, 3:4]], dim=1).float()[:, :3]


@pytest.fixture(scope="module")
def written() -> tuple[bytes, bytes]:
    return program.write(tiny_exportable(metadata={"edgekd": "1"}), "dynamic")


@pytest.mark.parametrize("module", [tiny_student(), _Attention().eval()], ids=["convolutions", "attention"])
def test_the_program_answers_exactly_like_the_student(module: nn.Module) -> None:
    """The same operators in the same order: not a bit differs, at any batch."""
    ready = program.Program(*program.write(tiny_exportable(module), "dynamic"))
    with torch.no_grad():
        for batch in (1, 2, 5):
            assert torch.equal(ready(IMAGE_BCHW[:batch]), module(IMAGE_BCHW[:batch]))


def test_the_interface_is_free_or_fixed_as_asked(written: tuple[bytes, bytes]) -> None:
    """The program knows its own shapes."""
    free, fixed = program.Program(*written), program.Program(*program.write(tiny_exportable(), 4))
    assert (free.input.shape, free.output.shape) == (("batch", 3, 16, 16), ("batch", 3))
    assert (fixed.input.shape, fixed.output.shape) == ((4, 3, 16, 16), (4, 3))


def test_the_same_weights_give_the_same_bytes() -> None:
    """Two traces of two builds are one pair of files."""
    assert len({program.write(tiny_exportable(tiny_student()), "dynamic") for _ in range(2)}) == 1


def test_only_weights_that_are_used_are_stored(written: tuple[bytes, bytes]) -> None:
    """Batch norm's counters are for training; the file tells its classes, and no path of this machine."""
    text, weights = written
    assert not [name for name in load(weights) if "num_batches" in name]
    about = json.loads(text)["about"]
    assert json.loads(about["classes"]) == ["class_0", "class_1", "class_2"]
    assert about["edgekd"] == "1"
    assert b".py" not in text + weights


def test_what_is_not_needed_any_more_is_freed(written: tuple[bytes, bytes]) -> None:
    """While it runs, a chain of layers never holds more than the values that a later step still reads."""
    ready = program.Program(*written)
    alive: list[int] = []
    for step in ready._steps:
        step.run = _counting(step.run, alive, weights=len(ready.tensors))  # type: ignore[method-assign]
    ready(IMAGE_BCHW)
    assert len(alive) == len(ready._steps)
    assert max(alive) <= 2


def _counting(run: Any, alive: list[int], *, weights: int) -> Any:
    def counted(values: dict[str, Any]) -> Any:
        alive.append(len(values) - weights)
        return run(values)

    return counted


# ----------------------------------------------------------------------------------------------------------- hostile files
def changed(text: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(text) | changes).encode()


def step(call: str, *args: Any, name: str = "evil", **more: Any) -> dict[str, Any]:
    return {"name": name, "call": call, "args": list(args), **more}


@pytest.mark.parametrize(
    "bad",
    [
        step("os.system", "true"),
        step("eval", "1"),
        step("aten.from_file.default", "/etc/hostname"),
        step("aten.save.default", {"value": "image_bchw"}, "stolen.pt"),
        step("aten._print.default", "text"),
        step("aten.manual_seed.default", 0),
        step("prim.device.default", {"value": "image_bchw"}),
        step("torch.ops.aten.relu.default", {"value": "image_bchw"}),
        step("aten.no_such_operator.default"),
        step("aten.relu.no_such_overload"),
        step("aten.relu.__call__"),
        step("aten.__class__.default"),
        step("aten.relu.default", {"value": "not_made_yet"}),
        step("aten.relu.default", {"dtype": "load"}),
        step("aten.relu.default", {"hub": "load"}),
        step("aten.relu.default", {"device": "cuda"}),
        step("aten.relu.default", {"two": "keys", "in": "one"}),
        step("aten.relu.default", {"value": "image_bchw"}, name="image_bchw"),
        {"name": "evil"},
        "evil",
        None,
    ],
    ids=lambda bad: json.dumps(bad)[:60],
)
def test_a_step_that_is_not_plain_computing_is_refused(written: tuple[bytes, bytes], bad: Any) -> None:
    """Such a file is refused before anything runs."""
    text, weights = written
    steps = json.loads(text)["steps"]
    program.Program(changed(text, steps=steps), weights)
    with pytest.raises(IntegrityError):
        program.Program(changed(text, steps=[bad, *steps]), weights)


@pytest.mark.parametrize(
    "text",
    [b"", b"\x80\x04.", b"[]", b"{}", b'{"program": 2}', b'{"program": 1}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "pickle", "list", "no schema", "other schema", "no steps", "not text", "deep"],
)
def test_what_is_no_program_is_refused(written: tuple[bytes, bytes], text: bytes) -> None:
    """One clear refusal, whatever the bytes are."""
    with pytest.raises(IntegrityError, match=r"not a (valid )?torch program"):
        program.Program(text, written[1])


def test_other_weights_and_another_answer_are_refused(written: tuple[bytes, bytes]) -> None:
    """Weights that are no safetensors, a weight that is missing, an answer that nothing makes."""
    text, weights = written
    for bad_text, bad_weights in (
        (text, b"garbage"),
        (text, program.write(tiny_exportable(_Attention().eval()), 2)[1]),
        (changed(text, answer="nobody"), weights),
        (changed(text, input=["image"]), weights),
    ):
        with pytest.raises(IntegrityError):
            program.Program(bad_text, bad_weights)


@torch.library.custom_op("edgekd_tests::twice", mutates_args=())
def _twice(image_BCHW: torch.Tensor) -> torch.Tensor:
    return image_BCHW * 2


@_twice.register_fake
def _(image_BCHW: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(image_BCHW)


class _UsesItsOwnOperator(nn.Module):
    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return _twice(image_BCHW).mean((2, 3))


class _UsesInfinity(nn.Module):
    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return image_BCHW.clamp(min=-float("inf")).mean((2, 3))


@pytest.mark.parametrize(
    ("module", "said"),
    [(_UsesItsOwnOperator(), "calls edgekd_tests.twice.default"), (_UsesInfinity(), "uses -inf")],
    ids=["operator", "number"],
)
def test_a_student_that_the_form_cannot_hold_is_refused(module: nn.Module, said: str) -> None:
    """The message says what it uses, and that the torch backend can be left out."""
    with pytest.raises(UsageError, match=rf"this student {said}(.|\n)*leave out backend torch"):
        program.write(tiny_exportable(module), "dynamic")


def test_a_student_that_cannot_be_traced_is_one_message() -> None:
    """torch's reason in one line."""

    class AsksForItsPixels(nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            return image_BCHW.mean((2, 3)) if image_BCHW.sum() > 0 else image_BCHW.amax((2, 3))

    with pytest.raises(UsageError, match=r"cannot be traced by torch.export: .+") as raised:
        program.write(tiny_exportable(AsksForItsPixels()), "dynamic")
    assert "\n" not in raised.value.message
