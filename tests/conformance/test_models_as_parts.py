"""Every registered teacher and student keeps its contract, shown on small random models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgekd.core import parts
from edgekd.core.contracts import Student, Teacher
from edgekd.core.errors import UsageError

TEACHERS: dict[str, dict[str, Any]] = {
    "timm": {"model": "vit_tiny_patch16_224", "weights": "random", "size": 32},
    "stochastic_depth": {"model": "vit_tiny_patch16_224", "weights": "random", "size": 32, "drop": 0.2},
}
CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
STUDENTS: dict[str, dict[str, Any]] = {
    "timm": {"model": "mobileone_s0", "weights": "random", "size": 32},
    "mobile": {"genome": "small r32 w0.5 hard_swish k3e3d1 k5e4d2se k7e1d1 k3e6d1se"},
    "cifar_resnet": {"genome": "1-2-1"},
    "nas_bench_201": {"genome": CELL, "cells": 1},
}
FOLDS = {"timm"}


def teacher(name: str, **changes: Any) -> Teacher:
    part = parts.load("teacher", name)(**TEACHERS[name], **changes)
    assert isinstance(part, Teacher)
    return part


def student(name: str) -> Student:
    part = parts.load("student", name)(**STUDENTS[name])
    assert isinstance(part, Student)
    return part


def test_every_registered_part_has_a_case() -> None:
    """A new teacher or student must be added to the cases above."""
    assert set(parts.names("teacher")) == set(TEACHERS)
    assert set(parts.names("student")) == set(STUDENTS)


@pytest.mark.parametrize("name", parts.names("teacher"))
def test_a_teacher_is_frozen_deterministic_and_answers_in_float32(name: str) -> None:
    """No gradients, evaluation mode, any image size, the shapes that its spec promises."""
    torch.manual_seed(0)
    frozen = teacher(name).load()
    taps = ("pooled", "cls")
    image = torch.rand(2, 3, 48, 48, requires_grad=True)
    one, two = frozen.features(image, taps), frozen.features(image, taps)
    for tap, shape in frozen.spec(taps).shapes.items():
        assert one[tap].shape == (2, *shape)
        assert one[tap].dtype == torch.float32
        assert not one[tap].requires_grad
        assert torch.equal(one[tap], two[tap])
    assert len(frozen.weights_sha256) == 64
    assert frozen.size_px == (32, 32)
    assert frozen.parameters > 0
    with pytest.raises(UsageError, match="has no tap"):
        frozen.spec(("no_such_tap",))


def test_a_teacher_in_bf16_answers_nearly_the_same() -> None:
    """Half-width weights change the features by little, and the answer is still float32."""
    torch.manual_seed(0)
    full = teacher("timm", precision="fp32").load()
    torch.manual_seed(0)
    half = teacher("timm", precision="bf16").load()
    image = torch.rand(2, 3, 32, 32)
    a, b = (model.features(image, ("pooled",))["pooled"] for model in (full, half))
    assert b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.1 * float(a.abs().max())


def test_a_teacher_answers_many_images_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into parts the answers are those of the whole batch, in its order, and an empty batch has empty answers."""
    monkeypatch.setattr("edgekd.distilling.teachers.timm._CPU_BATCH", 3)
    torch.manual_seed(0)
    frozen: Any = teacher("timm", precision="fp32").load()
    image = torch.rand(8, 3, 32, 32)
    whole = frozen._tapped.features(image, ("cls",))["cls"]
    torch.testing.assert_close(frozen.features(image, ("cls",))["cls"], whole, rtol=1e-4, atol=1e-5)
    assert frozen.features(image[:0], ("cls",))["cls"].shape == (0, whole.shape[1])


@pytest.mark.parametrize(
    ("capabilities", "fused"), [({"avx512_bf16": True}, False), ({"avx512_bf16": True, "amx_bf16": True}, True), ({}, True)]
)
def test_attention_is_fused_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fused: bool
) -> None:
    """bf16 without AMX multiplies faster than torch's fused kernel; everything else takes the kernel, and answers alike."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    frozen: Any = teacher("timm").load()
    flags = {module.fused_attn for module in frozen._tapped.modules() if hasattr(module, "fused_attn")}
    assert flags == {fused}


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({}, "fp32"), ({"avx512_f": True}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_a_teacher_takes_bf16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    """`auto`, the default, is settled when the weights are loaded, and the frozen model says what it came to."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    frozen: Any = teacher("timm").load()
    assert frozen.precision == precision
    widths = {parameter.dtype for parameter in frozen._tapped.model.parameters()}
    assert widths == {torch.bfloat16 if precision == "bf16" else torch.float32}
    asked: Any = teacher("timm", precision="fp32").load()
    assert asked.precision == "fp32"


@pytest.mark.parametrize("name", parts.names("student"))
def test_a_student_trains_is_restored_and_deploys_as_one_function(name: str, tmp_path: Path) -> None:
    """Restored weights and the folded, self-normalising deployable give the student's own logits."""
    torch.manual_seed(0)
    part = student(name)
    built: Any = part.build(5)
    built.train()
    for _ in range(3):  # moves the batch-norm statistics off their start, so that folding them is seen
        built.features(torch.rand(8, 3, 32, 32), ("logits",))
    built.eval()
    save_file(built.model.state_dict(), tmp_path / "w.safetensors")
    restored: Any = part.restore(5, tmp_path / "w.safetensors")
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = built.features(image, ("logits",))["logits"]
        assert torch.equal(restored.eval().features(image, ("logits",))["logits"], expected)
        deployed = part.exportable(built)
        assert torch.allclose(deployed(image), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not deployed.training
    weights, deployed_weights = (sum(p.numel() for p in model.parameters()) for model in (built, deployed))
    assert deployed_weights < weights if name in FOLDS else deployed_weights == weights
    contract = part.input_contract()
    assert contract.size_px == (32, 32)
    assert contract.value_range == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_identity_follows_the_weights_not_their_path(kind: str, tmp_path: Path) -> None:
    """The same bytes elsewhere are the same part; other bytes are another."""
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"1")
    (tmp_path / "c.safetensors").write_bytes(b"2")
    a, b, c = (
        json.dumps(parts.load(kind, "timm")(model="m", weights=tmp_path / f"{name}.safetensors").identity()) for name in "abc"
    )
    assert a == b != c
