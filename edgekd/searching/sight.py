"""What networks make of the fixed batch: of a student as it is initialised, of a teacher through a head for the same classes.

Axes: B batch, C channels, H height, W width, N images, D width of the vector before the head, K classes.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FrozenModel
from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Look, Sight

TEACHER_GRID = 7
_VECTOR, _OWN_VECTOR, _LOGITS, _MAP = "pooled", "pre_logits", "logits", "map"
_RIDGE = 1e-2
_STEPS = 50


def taught(look: Look) -> Sight:
    """Return the teacher's sight; raise `UsageError` if there is no teacher."""
    if look.teacher is None:
        raise UsageError("this scorer compares with a teacher, and there is none", mend="add `teachers:` to the recipe")
    return look.teacher


def sight_of(network: nn.Module, image_BCHW: Tensor, label_B: Tensor) -> tuple[Sight, tuple[float, ...]]:
    """Return what a network sees in training mode, and the deviations that its batch norms divided by."""
    model: Any = network.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # so that the running variance is that of this batch
    with torch.no_grad():
        found = model.features(image_BCHW, (_MAP, _OWN_VECTOR, _LOGITS))
    sight = Sight(
        map_BCHW=found[_MAP],
        vector_BD=found[_OWN_VECTOR],
        logits_BK=found[_LOGITS],
        label_B=label_B,
        weigh=lambda: map_gradient(network, image_BCHW),
    )
    return sight, _deviations(norms)


def map_of(network: nn.Module, image_BCHW: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Return the feature map before pooling, and the deviations that the batch norms divided by."""
    model: Any = network
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        map_BCHW: Tensor = model.features(image_BCHW, (_MAP,))[_MAP]
    return map_BCHW, _deviations(norms)


def map_gradient(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    """Return the gradients of the logits with respect to the map, averaged over images and positions, K x C (Grad-CAM)."""
    model: Any = network
    with torch.enable_grad():
        found = model.features(image_BCHW, (_MAP, _LOGITS))
        map_BCHW, logits_BK = found[_MAP], found[_LOGITS]
        rows = []
        for k in range(logits_BK.shape[1]):
            (gradient_BCHW,) = torch.autograd.grad(logits_BK[:, k].sum(), map_BCHW, retain_graph=True)
            rows.append(gradient_BCHW.mean(dim=(0, 2, 3)))
    return torch.stack(rows).detach()


def positive_copy(network: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """Return a copy in float64 whose weights are all positive, in evaluation mode: image_BCHW -> logits_BK, and its weights.

    The weights are those of convolutions and linear layers; batch norms have fresh statistics.
    """
    model: Any = copy.deepcopy(network).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return lambda image_BCHW: model.features(image_BCHW, (_LOGITS,))[_LOGITS], [layer.weight for layer in layers]


def teacher_sight(frozen: FrozenModel, image_BCHW: Tensor, label_B: Tensor, probe: "tuple[Tensor, Tensor] | None") -> Sight:
    """Return what a teacher sees; with a probe (weight_KD, bias_K) its classes are the probe's, without its own head's.

    Raises `UsageError` if its own head is not about as many classes as the labels need.
    """
    map_tap = map_tap_of(frozen)
    if probe is None:
        found = frozen.features(image_BCHW, (map_tap, _OWN_VECTOR, _LOGITS))
        if found[_LOGITS].shape[1] <= int(label_B.max()):
            raise UsageError(
                f"{frozen.name} answers over {found[_LOGITS].shape[1]} outputs, which are not the images' classes",
                mend="use `head: probe`",
            )
        return Sight(
            map_BCHW=found[map_tap],
            vector_BD=found[_OWN_VECTOR],
            logits_BK=found[_LOGITS],
            label_B=label_B,
            weigh=lambda: _unknown_weights(frozen),
        )
    weight_KD, bias_K = probe
    found = frozen.features(image_BCHW, (map_tap, _VECTOR))
    logits_BK = found[_VECTOR].double() @ weight_KD.T + bias_K
    return Sight(
        map_BCHW=found[map_tap], vector_BD=found[_VECTOR], logits_BK=logits_BK, label_B=label_B, weigh=lambda: weight_KD
    )


def map_tap_of(frozen: FrozenModel) -> str:
    """Return the tap of a teacher's feature map: `map`, or for transformers its patch tokens on a grid."""
    try:
        frozen.spec((_MAP,))
    except UsageError:
        return f"grid_{TEACHER_GRID}"
    return _MAP


def fit_probe(frozen: FrozenModel, batches: "list[Tensor]", label_N: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return (weight_KD, bias_K) of a logistic regression on the teacher's pooled features, in float64.

    Features are standardised while it is fitted; cross entropy plus a small ridge, minimised by L-BFGS from zeros.
    """
    feature_ND = torch.cat([frozen.features(image_BCHW, (_VECTOR,))[_VECTOR] for image_BCHW in batches]).double()
    mean_D, deviation_D = feature_ND.mean(dim=0), feature_ND.std(dim=0).clamp(min=1e-12)
    x_ND = (feature_ND - mean_D) / deviation_D
    weight_KD = torch.zeros(classes, x_ND.shape[1], dtype=torch.float64, requires_grad=True)
    bias_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_KD, bias_K], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = functional.cross_entropy(x_ND @ weight_KD.T + bias_K, label_N) + _RIDGE * weight_KD.square().sum()
        error.backward()
        return error

    optimiser.step(loss)
    plain_KD = weight_KD.detach() / deviation_D
    return plain_KD, bias_K.detach() - plain_KD @ mean_D


def _unknown_weights(frozen: FrozenModel) -> Tensor:
    raise UsageError(f"how {frozen.name}'s own head weighs its features is not known", mend="use `head: probe`")


def _deviations(norms: list[nn.BatchNorm2d]) -> tuple[float, ...]:
    found = [norm.running_var for norm in norms]
    return tuple(float(variance.double().mean().sqrt()) for variance in found if variance is not None)
