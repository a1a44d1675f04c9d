"""timm models by name: weights, sizes, what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.store import sha256_of
from edgekd.distilling import models
from edgekd.distilling.students import timm as students

CNN, VIT = "mobilenetv3_small_050", "vit_tiny_patch16_224"


def test_local_weights_are_loaded_strictly_then_the_head_is_replaced(tmp_path: Path) -> None:
    """Every key must fit the named model; half precision is cast; the new head has the asked classes."""
    original = timm.create_model(CNN, num_classes=5)
    path = tmp_path / "weights.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in original.state_dict().items()}, path)
    tapped = models.build(CNN, weights=path, size=64, classes=3, sha256=sha256_of(path))
    assert torch.allclose(tapped.model.conv_stem.weight, original.conv_stem.weight, atol=1e-3)
    assert tapped.model.conv_stem.weight.dtype == torch.float32
    assert tapped.spec(("logits",)).shapes["logits"] == (3,)


def test_a_model_made_for_one_size_is_made_for_another() -> None:
    """EfficientFormerV2's attention is built for a grid."""
    tapped = models.build("efficientformerv2_s0", weights="random", size=64, classes=3).eval()
    assert tapped(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_its_bare_form_is_made_for_that_size_too() -> None:
    """The call that others are told names the size; the weights of Visformer's positions fit."""
    student = students.Timm(model="visformer_tiny", weights="random", size=64)
    bare, call = student.without_head(student.build(3))
    assert bare(torch.rand(2, 3, 64, 64)).shape == (2, 384)
    assert "img_size=64" in call


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
def test_a_size_that_a_model_cannot_have_is_said(name: str) -> None:
    """One that takes no other size, and a size that does not fit its grid."""
    with pytest.raises(UsageError, match=f"{name} cannot be built for images of 100 px") as said:
        models.build(name, weights="random", size=100)
    assert "it takes 224 px" in str(said.value)


def test_a_transformers_positions_are_resampled_to_the_asked_size(tmp_path: Path) -> None:
    """Weights saved at 224 load at 64: the grid of positions is 4 x 4 and the class token's stays."""
    original = timm.create_model(VIT, num_classes=4)
    path = tmp_path / "vit.safetensors"
    save_file(original.state_dict(), path)
    tapped = models.build(VIT, weights=path, size=64)
    assert tapped.model.pos_embed.shape == (1, 17, 192)
    assert torch.allclose(tapped.model.pos_embed[:, 0], original.pos_embed[:, 0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv3_smal_100", "timm has no model 'mobilenetv3_smal_100'. Nearest: mobilenetv3_small_100"),
        (f"{VIT}.dino", "timm has no weights .* Known: .*augreg_in21k_ft_in1k"),
    ],
)
def test_an_unknown_name_shows_the_nearest(name: str, message: str) -> None:
    """Architecture and weights tag are each checked against timm's lists."""
    with pytest.raises(UsageError, match=message):
        models.build(name, weights="random", size=None)


def test_weights_of_another_model_are_refused_with_counts(tmp_path: Path) -> None:
    """The message counts missing, unknown and misshapen keys and names some."""
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), path)
    with pytest.raises(UsageError, match=r"not the weights of mobilenetv3_small_050: keys \d+ missing \(.*\d+ unknown \("):
        models.build(CNN, weights=path, size=None)


def test_weights_of_the_wrong_width_are_refused(tmp_path: Path) -> None:
    """Same keys with other shapes are told apart from missing keys."""
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("mobilenetv3_small_075").state_dict(), path)
    with pytest.raises(UsageError, match=r"of another shape \(.* is \(.*\), needs \("):
        models.build(CNN, weights=path, size=None)


def test_broken_missing_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Only readable safetensors files are weights."""
    broken = tmp_path / "w.safetensors"
    broken.write_bytes(b"not weights")
    pickled = tmp_path / "w.pth"
    pickled.write_bytes(b"")
    for path, message in (
        (broken, "not a readable safetensors"),
        (pickled, "only .safetensors"),
        (tmp_path / "none.safetensors", "no such weights file"),
    ):
        with pytest.raises(UsageError, match=message):
            models.build(CNN, weights=path, size=None)


def test_a_wrong_sha256_is_an_integrity_error(tmp_path: Path) -> None:
    """Weights whose digest is not the recipe's are never used."""
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model(CNN).state_dict(), path)
    with pytest.raises(IntegrityError, match="its sha256 is"):
        models.build(CNN, weights=path, size=None, sha256="0" * 64)


def test_the_state_digest_sees_every_weight() -> None:
    """Changing one number changes the digest; a copy has the same."""
    one, two = timm.create_model(CNN), timm.create_model(CNN)
    two.load_state_dict(one.state_dict())
    assert models.state_digest(one) == models.state_digest(two)
    with torch.no_grad():
        two.classifier.bias[0] += 1e-3
    assert models.state_digest(one) != models.state_digest(two)


OF_ANY_SIZE = ("repvit_m0_9", "swiftformer_xs", "efficientformerv2_s0", "dla34", "efficientvit_m0", "efficientvim_m1")
OF_ONE_SIZE = ("levit_128s", "crossvit_tiny_240", "volo_d1_224")


@pytest.mark.parametrize("name", [*OF_ANY_SIZE, *OF_ONE_SIZE])
def test_a_fresh_head_is_one_linear_layer_whatever_timm_has_there(name: str, tmp_path: Path) -> None:
    """It can be fitted on `pre_logits`, and what is exported, taken off, saved or given further heads is that student."""
    part = students.Timm(model=name, weights="random", size=None if name in OF_ONE_SIZE else 64)
    student = part.build(3).eval()
    for norm in student.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.add_(1.0)  # as after some training: a norm before the head must not go unseen
    image_BCHW = torch.rand(2, 3, *student.size_px)
    with torch.no_grad():
        student.head.weight.normal_()  # as a probe's, which is fitted on what stands before it
        found = student.features(image_BCHW, ("pre_logits", "logits"))
        torch.testing.assert_close(student.head(found["pre_logits"]), found["logits"])
        torch.testing.assert_close(part.exportable(student)(image_BCHW), found["logits"], rtol=1e-3, atol=1e-4)
        bare, _ = part.without_head(student)
        torch.testing.assert_close(bare((image_BCHW - student.mean) / student.std), found["pre_logits"])
        save_file(student.model.state_dict(), tmp_path / "student.safetensors")
        again = part.restore(3, tmp_path / "student.safetensors")
        torch.testing.assert_close(again(image_BCHW), found["logits"])
        student.set_heads({"more": 5})
        first, more = part.exportable(student)(image_BCHW)
        torch.testing.assert_close(first, found["logits"], rtol=1e-3, atol=1e-4)
        assert more.shape == (2, 5)
