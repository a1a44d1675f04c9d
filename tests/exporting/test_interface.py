"""What every exported model looks like from outside."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from edgekd.core.errors import UsageError
from edgekd.exporting.interface import Batch, check_input, properties, sample_of
from edgekd.testing import tiny_exportable


def test_a_file_says_its_classes_and_its_input_contract() -> None:
    """Both are JSON that a reader without edgekd can use; the stage's facts stand beside them, sorted."""
    about = properties(tiny_exportable(metadata={"weights_sha256": "ab", "edgekd": "1"}))
    assert list(about) == ["classes", "edgekd", "input", "weights_sha256"]
    assert json.loads(about["classes"]) == ["class_0", "class_1", "class_2"]
    contract = json.loads(about["input"])
    assert (contract["size_px"], contract["channels"], contract["normalisation_inside"]) == ([16, 16], "RGB", True)


@pytest.mark.parametrize(("batch", "size"), [("dynamic", 2), (1, 1), (2, 2), (5, 5)])
def test_the_sample_has_the_batch_that_is_traced(batch: Batch, size: int) -> None:
    """A free batch is traced with two images, because one would be taken for a constant."""
    one = replace(tiny_exportable(), sample_BCHW=torch.rand(1, 3, 16, 16))
    assert sample_of(one, batch).shape == (size, 3, 16, 16)


@pytest.mark.parametrize("batch", [0, -1, 2000, "any", 1.0, True])
def test_other_batches_are_refused(batch: object) -> None:
    """The option takes `dynamic` or a positive number."""
    with pytest.raises(ValidationError):
        TypeAdapter(Batch).validate_python(batch, strict=True)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 16, 16)])
def test_a_free_axis_takes_any_batch(shape: tuple[int, ...]) -> None:
    """Only the other axes are fixed."""
    check_input(np.zeros(shape, np.float32), ("batch", 3, 16, 16))


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((2, 3, 16, 16), np.float32, "4 x 3 x 16 x 16, not float32 2 x 3 x 16 x 16"),
        ((4, 3, 16, 17), np.float32, "not float32 4 x 3 x 16 x 17"),
        ((4, 3, 16), np.float32, "not float32 4 x 3 x 16"),
        ((4, 3, 16, 16), np.uint8, "not uint8"),
        ((4, 3, 16, 16), np.float64, "not float64"),
    ],
)
def test_other_inputs_are_refused_with_both_shapes(shape: tuple[int, ...], dtype: type, said: str) -> None:
    """The message says what the artifact takes and what it was given."""
    with pytest.raises(UsageError, match=said):
        check_input(np.zeros(shape, dtype), (4, 3, 16, 16))
