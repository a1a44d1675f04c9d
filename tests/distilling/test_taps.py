"""timm models behind one face: taps, preprocessing."""

import copy

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from edgekd.core.errors import UsageError
from edgekd.distilling import models
from edgekd.distilling.taps import TappedModel

CNN, VIT = "mobilenetv3_small_050", "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit() -> TappedModel:
    torch.manual_seed(0)
    return models.build(VIT, weights="random", size=64).eval()


@pytest.fixture(scope="module")
def cnn() -> TappedModel:
    torch.manual_seed(0)
    return models.build(CNN, weights="random", size=64, classes=7).eval()


@torch.no_grad()
def test_transformer_taps_are_what_their_names_say(vit: TappedModel) -> None:
    """Class token, patch mean and the last block's class token are read from timm's own forward pass."""
    image = torch.rand(2, 3, 64, 64)
    found = vit.features(image, ("tokens", "cls", "patch_mean", "last_1", "last_2", "pooled", "pre_logits", "logits"))
    tokens = vit.model.forward_features((image - 0.5) / 0.5)
    assert torch.allclose(found["tokens"], tokens, atol=1e-5)
    assert torch.allclose(found["cls"], tokens[:, 0], atol=1e-5)
    assert torch.allclose(found["patch_mean"], tokens[:, 1:].mean(1), atol=1e-5)
    assert torch.allclose(found["last_1"], tokens[:, 0], atol=1e-5)
    assert torch.equal(found["last_2"][:, -192:], found["last_1"])
    assert torch.allclose(found["pooled"], found["cls"])
    assert torch.allclose(found["logits"], vit.model.head(found["pre_logits"]), atol=1e-5)
    assert found["tokens"].shape == (2, 17, 192)


@torch.no_grad()
def test_convolutional_taps_are_what_their_names_say(cnn: TappedModel) -> None:
    """The pooled tap is the mean of the last map; logits come from the fresh head."""
    found = cnn.features(torch.rand(2, 3, 64, 64), ("map", "pooled", "pre_logits", "logits", "last_2"))
    assert torch.allclose(found["pooled"], found["map"].mean((2, 3)))
    assert found["logits"].shape == (2, 7)
    assert torch.allclose(found["logits"], cnn.model.classifier(found["pre_logits"]), atol=1e-5)


@torch.no_grad()
def test_maps_with_channels_last_are_turned() -> None:
    """Swin's features are B H W C; its taps are B C H W like everybody's, and what it pools itself is the same."""
    swin = models.build("swin_tiny_patch4_window7_224", weights="random", size=None).eval()
    image = torch.rand(1, 3, 224, 224)
    found = swin.features(image, ("map", "pooled", "grid_7", "pre_logits", "exit_1"))
    torch.testing.assert_close(found["map"], swin.model.forward_features((image - swin.mean) / swin.std).permute(0, 3, 1, 2))
    assert found["map"].shape == (1, 768, 7, 7)
    for tap in ("pooled", "pre_logits"):
        torch.testing.assert_close(found[tap], found["map"].mean((2, 3)))
    torch.testing.assert_close(found["grid_7"], found["map"])
    assert found["exit_1"].shape == (1, 768)


@torch.no_grad()
def test_branches_are_pooled_as_the_model_does_it() -> None:
    """CrossViT's features are two lists of tokens: there is a vector of both, and neither tokens nor a map."""
    crossvit = models.build("crossvit_tiny_240", weights="random", size=None).eval()
    image = torch.rand(1, 3, 240, 240)
    branches = crossvit.model.forward_features((image - crossvit.mean) / crossvit.std)
    found = crossvit.features(image, ("pooled", "pre_logits"))
    torch.testing.assert_close(found["pooled"], torch.cat([tokens[:, 0] for tokens in branches], dim=1))
    torch.testing.assert_close(found["pre_logits"], found["pooled"])
    with pytest.raises(UsageError, match="no tap 'grid_2'; it has exit_<k>, last_<k>, logits, pooled, pre_logits"):
        crossvit.features(image, ("grid_2",))


@torch.no_grad()
def test_a_class_token_is_known_by_its_name_too() -> None:
    """VOLO does not count its prefix tokens, yet has a class token; the exits of CaiT's blocks are means of patches."""
    volo = models.build("volo_d1_224", weights="random", size=None).eval()
    found = volo.features(torch.rand(1, 3, 224, 224), ("tokens", "cls", "patch_mean"))
    torch.testing.assert_close(found["cls"], found["tokens"][:, 0])
    torch.testing.assert_close(found["patch_mean"], found["tokens"][:, 1:].mean(1))
    cait = models.build("cait_xxs24_224", weights="random", size=None).eval()
    image = torch.rand(1, 3, 224, 224)
    maps = cait.model.forward_intermediates((image - cait.mean) / cait.std, indices=2, intermediates_only=True)
    torch.testing.assert_close(cait.features(image, ("exit_2",))["exit_2"], maps[0].mean((2, 3)))


@torch.no_grad()
def test_exits_of_a_transformer_without_a_class_token_are_means() -> None:
    """The last one is the mean of the final tokens, which are normed; the one before is not the same."""
    vit = models.build("vit_srelpos_small_patch16_224", weights="random", size=None).eval()
    found = vit.features(torch.rand(1, 3, 224, 224), ("tokens", "exit_1", "last_2"))
    torch.testing.assert_close(found["exit_1"], found["tokens"].mean(1))
    torch.testing.assert_close(found["last_2"][:, 384:], found["exit_1"])
    assert not torch.equal(found["last_2"][:, :384], found["exit_1"])


@torch.no_grad()
def test_a_model_resizes_and_normalises_for_itself(cnn: TappedModel) -> None:
    """A grey image of another size gives the answer of that grey at the model's own size."""
    small = cnn.features(torch.full((1, 3, 64, 64), 0.5), ("logits",))["logits"]
    large = cnn.features(torch.full((1, 3, 160, 160), 0.5), ("logits",))["logits"]
    assert torch.allclose(small, large, atol=1e-5)


# Where each model applies the last activation of its feature map, and how wide that map is, read from timm's source.
LAST_ACTIVATION = {
    "mobilenetv3_small_050": (lambda model: model.blocks[-1][-1].bn1.act, 288),
    "mobilenetv2_050": (lambda model: model.bn2.act, 1280),
    "resnet10t": (lambda model: model.layer4[-1].act2, 512),
}


@pytest.mark.parametrize("name", LAST_ACTIVATION)
@torch.no_grad()
def test_pre_act_is_the_input_of_the_last_activation(name: str) -> None:
    """The mean of what a hook on the named module sees, copied before an activation in place overwrites it."""
    find, width = LAST_ACTIVATION[name]
    torch.manual_seed(0)
    tapped = models.build(name, weights="random", size=32).eval()
    plain = copy.deepcopy(tapped.model)
    image = torch.rand(2, 3, 32, 32)
    seen: list[torch.Tensor] = []
    find(plain).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    after = plain.forward_features(tapped.prepared(image))
    for _ in range(2):  # the second time the module is known already
        found = tapped.features(image, ("pre_act", "pooled", "map"))
        assert found["pre_act"].shape == (2, width)
        torch.testing.assert_close(found["pre_act"], seen[-1].mean((2, 3)))
        torch.testing.assert_close(found["map"], after)
    assert float((found["pre_act"] - found["pooled"]).abs().max()) > 1e-3
    assert torch.equal(tapped.features(image, ("pre_act",))["pre_act"], found["pre_act"])
    assert not find(tapped.model)._forward_pre_hooks


def test_gradients_flow_through_pre_act_in_training() -> None:
    """Its gradient with respect to the last weights before it is that of the same mean computed by hand, activation unused."""
    torch.manual_seed(0)
    tapped = models.build("mobilenetv2_050", weights="random", size=32).train()
    plain = copy.deepcopy(tapped.model)
    image = torch.rand(4, 3, 32, 32)
    weight_D = torch.linspace(-1, 1, 1280)
    (tapped.features(image, ("pre_act",))["pre_act"] * weight_D).sum().backward()

    plain.bn2.act = torch.nn.Identity()  # what comes out of it is then what went into the activation
    (plain.forward_features(tapped.prepared(image)).mean((2, 3)) * weight_D).sum().backward()
    assert float(plain.conv_head.weight.grad.abs().max()) > 0
    torch.testing.assert_close(tapped.model.conv_head.weight.grad, plain.conv_head.weight.grad)
    torch.testing.assert_close(tapped.model.conv_stem.weight.grad, plain.conv_stem.weight.grad, rtol=1e-3, atol=1e-4)


def test_losses_on_both_sides_of_the_last_activation_can_be_added() -> None:
    """An activation that overwrote its input would spoil the gradient, or make it an error."""
    torch.manual_seed(0)
    tapped = models.build("mobilenetv2_050", weights="random", size=32, classes=3).eval()
    image = torch.rand(2, 3, 32, 32)
    grads = []
    for taps in (("pre_act",), ("logits",), ("pre_act", "logits")):
        tapped.zero_grad()
        sum(value.square().sum() for value in tapped.features(image, taps).values()).backward()
        grads.append(tapped.model.conv_head.weight.grad.clone())
    torch.testing.assert_close(grads[2], grads[0] + grads[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_copy_of_a_model_taps_itself() -> None:
    """The moving average is a copy; its taps come from its own weights, not from the original's."""
    torch.manual_seed(0)
    tapped = models.build("mobilenetv2_050", weights="random", size=32).eval()
    image = torch.rand(2, 3, 32, 32)
    before = tapped.features(image, ("pre_act",))["pre_act"]
    other = copy.deepcopy(tapped)
    other.model.bn2.bias += 1.0  # the shift of the last normalisation is added to every channel
    torch.testing.assert_close(other.features(image, ("pre_act",))["pre_act"], before + 1.0)
    torch.testing.assert_close(tapped.features(image, ("pre_act",))["pre_act"], before)


def test_a_model_whose_map_comes_out_of_no_activation_has_no_pre_act(vit: TappedModel) -> None:
    """A transformer's tokens leave a norm; the message says so and what to use."""
    with pytest.raises(UsageError, match=r"has no tap 'pre_act': its feature map does not come out(.|\n)*use the tap pooled"):
        vit.features(torch.rand(1, 3, 64, 64), ("pre_act",))


@torch.no_grad()
def test_a_grid_averages_the_patches_or_the_map(vit: TappedModel, cnn: TappedModel) -> None:
    """4 x 4 patch tokens as 2 x 2 means of four, rows first; 1 is the mean, the map's own size is the map."""
    image = torch.rand(2, 3, 64, 64)
    found = vit.features(image, ("tokens", "grid_2", "grid_1", "grid_4", "patch_mean"))
    patches = found["tokens"][:, 1:]
    for row in range(2):
        for column in range(2):
            four = [4 * (2 * row + down) + 2 * column + right for down in range(2) for right in range(2)]
            torch.testing.assert_close(found["grid_2"][:, :, row, column], patches[:, four].mean(1))
    torch.testing.assert_close(found["grid_1"][:, :, 0, 0], found["patch_mean"])
    torch.testing.assert_close(found["grid_4"].flatten(2), patches.transpose(1, 2))
    own = cnn.features(image, ("map", "grid_1", "grid_2", "pooled"))
    torch.testing.assert_close(own["grid_1"][:, :, 0, 0], own["pooled"])
    torch.testing.assert_close(own["grid_2"], own["map"])
    assert cnn.spec(("grid_3",)).shapes == {"grid_3": (288, 3, 3)}


@torch.no_grad()
def test_joined_taps_are_their_parts_in_the_order_written(vit: TappedModel) -> None:
    """One tensor under the joined name, from one pass, and nothing that was not asked for."""
    image = torch.rand(2, 3, 64, 64)
    parts = vit.features(image, ("cls", "patch_mean", "last_2"))
    for names in (("cls", "patch_mean", "last_2"), ("last_2", "cls"), ("cls", "cls")):
        joined = vit.features(image, ("+".join(names), "cls"))
        assert list(joined) == ["+".join(names), "cls"]
        torch.testing.assert_close(joined["+".join(names)], torch.cat([parts[name] for name in names], dim=1))
    assert vit.spec(("cls+last_2",)).shapes == {"cls+last_2": (192 + 384,)}


def test_only_vectors_are_joined_and_only_known_ones(vit: TappedModel) -> None:
    """Tokens have no width to add up, and an unknown part is told like an unknown tap."""
    image = torch.rand(1, 3, 64, 64)
    with pytest.raises(UsageError, match=r"'cls\+tokens': only vectors can be joined, and tokens has shape \(17, 192\)"):
        vit.features(image, ("cls+tokens",))
    with pytest.raises(UsageError, match="no tap 'clss'"):
        vit.features(image, ("cls+clss",))


def test_the_head_is_the_last_linear_layer(cnn: TappedModel, vit: TappedModel) -> None:
    """Found by timm's own name for it; a model without one is refused."""
    assert cnn.head is cnn.model.classifier
    assert vit.head is vit.model.head
    headless = models.build(CNN, weights="random", size=32, classes=0)
    with pytest.raises(UsageError, match=r"does not end in a linear layer \(Identity\)"):
        _ = headless.head


def test_an_unknown_tap_lists_the_known_ones(cnn: TappedModel) -> None:
    """The message names the model, the tap, and what there is."""
    with pytest.raises(UsageError, match=r"no tap 'cls'; it has .*map.*pooled"):
        cnn.features(torch.rand(1, 3, 64, 64), ("cls",))


def test_the_spec_gives_shapes_and_leaves_the_mode_alone(cnn: TappedModel) -> None:
    """Asking for shapes neither trains nor forgets that the model was training."""
    cnn.train()
    assert cnn.spec(("pooled", "logits")).shapes == {"pooled": (288,), "logits": (7,)}
    assert cnn.training
    cnn.eval()


@pytest.mark.parametrize("name", [CNN, VIT, "fastvit_t8", "vit_base_patch32_clip_224.openai"])
def test_the_contract_is_timms_own_preprocessing(name: str) -> None:
    """Size, short side, interpolation, mean and std are those that timm resolves for the model."""
    tapped = models.build(name, weights="random", size=None)
    config = resolve_model_data_config(timm.create_model(name))
    contract = tapped.contract()
    assert contract.size_px == config["input_size"][1:]
    assert contract.resize_px == int(config["input_size"][1] / config["crop_pct"])
    assert (contract.interpolation, contract.mean, contract.std) == (
        config["interpolation"],
        config["mean"],
        config["std"],
    )
