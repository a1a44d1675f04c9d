"""DisWOT as a method: its four terms, their weights, and other widths."""

from typing import Any

import pytest
import torch

from edgekd.core import parts
from edgekd.core.contracts import Batch, FeatureSpec
from edgekd.core.errors import UsageError


def built(width_s: int, width_t: int, **options: Any) -> Any:
    method = parts.load("method", "diswot")(**options)
    student = FeatureSpec(name="s", shapes={"map": (width_s, 2, 2), "logits": (2,)})
    teacher = FeatureSpec(name="t", shapes={"grid_7": (width_t, 3, 3), "probe_logits": (2,)})
    return method.build(student, (teacher,), 2)


def batch() -> Batch:
    return Batch(
        image_BCHW=torch.zeros(2, 3, 4, 4), label_B=torch.tensor([0, 1]), index_B=torch.arange(2), view_B=torch.zeros(2).long()
    )


def features(width_s: int = 2, width_t: int = 2, *, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    dice = torch.Generator().manual_seed(seed)
    student = {"map": torch.randn(2, width_s, 2, 2, generator=dice), "logits": torch.randn(2, 2, generator=dice)}
    teacher = {"grid_7": torch.randn(2, width_t, 3, 3, generator=dice), "probe_logits": torch.randn(2, 2, generator=dice)}
    return student, teacher


def test_the_terms_are_those_of_the_reference() -> None:
    """SP .292893, ICKD .585786 and KL .130812 of the reference's vectors, weighed and added up."""
    criterion = built(2, 2, temperature=1.0, weight=2.0, label_weight=0.0, relation_weight=10.0, channel_weight=3.0)
    student = {"map": torch.eye(2).view(2, 2, 1, 1), "logits": torch.zeros(2, 2)}
    teacher = {
        "grid_7": torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 2, 1, 1),
        "probe_logits": torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log(),
    }
    found = criterion(student, (teacher,), batch())
    assert float(found.parts["relation"]) == pytest.approx(0.292893, abs=1e-6)
    assert float(found.parts["kd"]) == pytest.approx(0.130812, abs=1e-6)
    # Image 0 agrees; of image 1 the student has channel 1 alone, the teacher channel 0 alone: 2 of squared difference over B C.
    assert float(found.parts["channel"]) == pytest.approx(0.5, abs=1e-6)
    expected = 2 * 0.130812 + 10 * 0.292893 + 3 * 0.5
    assert float(found.total) == pytest.approx(expected, abs=1e-5)


def test_the_last_term_begins_as_large_as_the_logits() -> None:
    """And keeps the weight that this gave, also when it is trained on from its state."""
    criterion = built(2, 2, label_weight=0.0, relation_weight=0.0)
    student, teacher = features()
    first = criterion(student, (teacher,), batch())
    assert float(first.total) == pytest.approx(2 * 0.9 * float(first.parts["kd"]), rel=1e-5)
    scale = 0.9 * float(first.parts["kd"]) / float(first.parts["channel"])
    again = built(2, 2, label_weight=0.0, relation_weight=0.0)
    again.load_state_dict(criterion.state_dict())
    student, teacher = features(seed=1)
    second = again(student, (teacher,), batch())
    assert float(second.total) == pytest.approx(
        0.9 * float(second.parts["kd"]) + scale * float(second.parts["channel"]), rel=1e-5
    )


def test_other_widths_meet_through_a_convolution_that_learns() -> None:
    """With equal widths there is none."""
    assert not list(built(2, 2).parameters())
    criterion = built(3, 5)
    student, teacher = features(3, 5)
    criterion(student, (teacher,), batch()).total.backward()
    (weight,) = criterion.parameters()
    assert weight.shape == (5, 3, 1)
    assert float(weight.grad.abs().sum()) > 0


def test_logits_of_other_classes_are_refused() -> None:
    """A teacher's own head over a thousand classes has nothing in common with two."""
    method = parts.load("method", "diswot")(head="own")
    teacher = FeatureSpec(name="vit", shapes={"grid_7": (4, 7, 7), "logits": (1000,)})
    with pytest.raises(UsageError, match=r"1000 outputs and the data have 2 classes(.|\n)*head: probe"):
        method.build(FeatureSpec(name="s", shapes={"map": (3, 2, 2), "logits": (2,)}), (teacher,), 2)
