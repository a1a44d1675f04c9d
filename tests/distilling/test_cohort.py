"""Students that learn together as one module, and branches that share a trunk."""

import copy
from typing import Any

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3

from edgekd.core.errors import UsageError
from edgekd.distilling import cohort, models
from edgekd.distilling.taps import TappedModel

SIZE = 32


def student(name: str = "test_efficientnet", size: int = SIZE) -> TappedModel:
    return models.build(name, weights="random", size=size, classes=3)


def branches(count: int = 3) -> cohort.Cohort:
    torch.manual_seed(0)
    return cohort.branched({name: student() for name in ("student", "branch_2", "branch_3")[:count]})


def image(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_peers_answer_under_their_names() -> None:
    """The first student's taps are its own; another's stand behind its name, and are what it says alone."""
    together = cohort.Cohort({"student": student(), "other": student(size=48)}).eval()
    found = together.features(image(), ("logits", "pooled"))
    assert set(found) == {"logits", "pooled", "other/logits", "other/pooled"}
    assert torch.equal(found["other/logits"], together.others["other"].features(image(), ("logits",))["logits"])
    assert together.size_px == (48, 48)
    assert together.spec(("logits",)).shapes == {"logits": (3,), "other/logits": (3,)}


def test_branches_share_all_but_the_last_level_and_compute_it_once() -> None:
    """One trunk, run once in a pass; what comes after it belongs to each branch, and so do its answers."""
    made = branches().eval()
    stem = made.first.model.conv_stem
    calls: list[int] = []
    found_by_each = {name: one.features(image(), ("logits",))["logits"] for name, one in made.others.items()}
    forward: Any = type(stem).forward
    original = copy.copy(forward)
    try:
        type(stem).forward = lambda self, x: (calls.append(1) if self is stem else None, original(self, x))[1]
        found = made.features(image(), ("logits",))
    finally:
        type(stem).forward = original
    assert len(calls) == 1
    for name, expected in found_by_each.items():
        torch.testing.assert_close(found[f"{name}/logits"], expected)
    assert not torch.equal(found["logits"], found["branch_2/logits"])
    own = {id(p) for p in made.first.parameters()}
    shared = [p for p in made.others["branch_2"].parameters() if id(p) in own]
    assert 0 < len(shared) < len(own)
    assert found["trunk"].shape == (4, made.spec(("logits",)).shapes["trunk"][0])


def test_statistics_of_the_trunk_are_updated_once_a_pass() -> None:
    """Batch norm below the branches counts one batch, as it would with a single branch."""
    made = branches()
    made.train()
    made.features(image(), ("logits",))
    assert int(made.first.model.bn1.num_batches_tracked) == 1


def test_nothing_of_a_pass_stays_behind() -> None:
    """After it every module runs by itself again, also when a tap was unknown."""
    made = branches()
    with pytest.raises(UsageError, match="has no tap"):
        made.features(image(), ("no_such_tap",))
    assert all("forward" not in vars(module) and "prepared" not in vars(module) for module in made.modules())


def test_every_branch_trains_the_trunk_and_only_its_own_rest() -> None:
    """A loss on one branch moves the shared stem and leaves the other branches' heads alone."""
    made = branches(2)
    made.train()
    made.features(image(), ("logits",))["branch_2/logits"].square().sum().backward()
    assert float(made.first.model.conv_stem.weight.grad.abs().sum()) > 0
    assert made.first.head.weight.grad is None
    assert float(made.others["branch_2"].head.weight.grad.abs().sum()) > 0


def test_an_average_takes_the_trunk_once() -> None:
    """A moving average of decay 0.9 moves every weight by a tenth, the shared ones too."""
    made = branches()
    average = ModelEmaV3(made, decay=0.9)
    with torch.no_grad():
        for weight in {id(p): p for p in made.parameters()}.values():
            weight.add_(1.0)
    before = average.module.first.model.conv_stem.weight.clone()
    average.update(made)
    torch.testing.assert_close(average.module.first.model.conv_stem.weight, before + 0.1)


def test_branches_that_begin_alike_are_moved_apart() -> None:
    """From one checkpoint the branches would learn the same for ever; a hundredth of the deviation is enough to tell them."""
    torch.manual_seed(0)
    first = student()
    made = cohort.branched(cohort.copies_of(first, ("student", "branch_2")), alike=True).eval()
    found = made.features(image(), ("logits",))
    assert not torch.allclose(found["logits"], found["branch_2/logits"], rtol=1e-4, atol=0)
    assert torch.equal(made.first.model.conv_stem.weight, first.model.conv_stem.weight)
    moved = (made.others["branch_2"].head.weight - first.head.weight).detach()
    assert 0.003 < float(moved.std() / first.head.weight.detach().std()) < 0.03


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mobilenetv2_035", "mobileone_s0", "resnet18"])
def test_the_trunk_of_a_convolutional_student_ends_below_its_last_level(name: str) -> None:
    """Stem and early stages are in it, the last stage and the classifier are not."""
    made = student(name)
    trunk = cohort.trunk_of(made)
    stages = [f"model.{child}" for child, _ in made.model.named_children()]
    assert trunk[0] == stages[0]
    last = {"mobileone_s0": "model.stages.3", "resnet18": "model.layer4.0"}.get(name, "model.blocks.5")
    assert not any(last.startswith(name) or name.startswith(last) for name in trunk)
    assert trunk[-1] in {"model.blocks.3", "model.blocks.4", "model.stages.2", "model.layer3.1"}


def test_a_transformer_cannot_be_branched() -> None:
    """Its resolution does not change, and the message says what can be done."""
    with pytest.raises(UsageError, match=r"(?s)cannot be branched.*method: mutual"):
        cohort.trunk_of(student("vit_tiny_patch16_224"))
