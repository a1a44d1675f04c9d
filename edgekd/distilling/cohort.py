"""Several students that learn together, as one module: apart from one another, or branches of one trunk.

Each stays a whole student, so that any of them can be saved, exported and judged by itself.

Axes: B batch, C channels, H height, W width, D feature width.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.distilling.taps import TappedModel

TRUNK = "trunk"
_APART = 0.01  # of a weight's deviation: what branches that begin with the same weights differ by


class Cohort(nn.Module):
    """Students by name, the first of them the run's own; `features` answers for all of them.

    The taps of the first are called as its own, those of the others `<name>/<tap>`. Students of a common trunk have one tap
    more, `trunk` (B x D): the mean of the map that the branches grow from, which is computed once.
    """

    def __init__(self, students: Mapping[str, TappedModel], *, trunk: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.names = tuple(students)
        self.students = nn.ModuleList(students.values())
        self._trunk = tuple(self._name_of(module) for module in trunk)

    @property
    def first(self) -> TappedModel:
        """Return the run's own student."""
        return cast(TappedModel, self.students[0])

    @property
    def others(self) -> dict[str, TappedModel]:
        """Return the other students by name."""
        return {name: cast(TappedModel, self.students[at]) for at, name in enumerate(self.names) if at}

    @property
    def size_px(self) -> tuple[int, int]:
        """Return the largest input size; a student of a smaller one resizes for itself."""
        return max(cast(TappedModel, student).size_px for student in self.students)

    def features(self, image_BCHW: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return every student's taps of images in [0, 1], and `trunk` if there is one."""
        found: dict[str, Tensor] = {}
        with self._trunk_once() as ends:
            for name, student in zip(self.names, self.students, strict=True):
                answer = cast(TappedModel, student).features(image_BCHW, taps)
                found |= answer if not found else {tap_of(name, tap): value for tap, value in answer.items()}
        if ends:
            found[TRUNK] = ends[-1].value.mean(dim=(2, 3))
        return found

    def spec(self, taps: tuple[str, ...]) -> FeatureSpec:
        """Return the shapes of everything that `features` answers, found by running one blank image."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            features = self.features(torch.zeros(1, 3, *self.size_px, device=self.first.mean.device), taps)
        self.train(was_training)
        return FeatureSpec(name=self.first.name, shapes={tap: tuple(f.shape[1:]) for tap, f in features.items()})

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights, those of a common trunk once: who averages them would otherwise do it for every branch."""
        state = super().state_dict(*args, **kwargs)
        seen: set[tuple[int, torch.Size]] = set()
        for key, value in list(state.items()):
            place = (value.data_ptr(), value.shape)
            if value.numel() and place in seen:
                del state[key]
            seen.add(place)
        return cast(dict[str, Any], state)

    @contextmanager
    def _trunk_once(self) -> "Iterator[list[_Once]]":
        """Have what all branches share compute once for the same input while this lasts."""
        modules = [self.get_submodule(name) for name in self._trunk]
        if not modules:
            yield []
            return
        once = [_Once(module.forward) for module in modules]
        prepared = _Once(self.first.prepared)
        for module, remembered in zip(modules, once, strict=True):
            module.forward = remembered
        for student in self.students:
            student.prepared = prepared  # type: ignore[assignment]
        try:
            yield once
        finally:
            for module in modules:
                del module.forward
            for student in self.students:
                del student.prepared

    def _name_of(self, wanted: nn.Module) -> str:
        return str(next(name for name, module in self.named_modules() if module is wanted))


class _Once:
    """A function of one tensor that remembers its last answer and gives it again for the very same tensor."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._seen: Tensor | None = None
        self.value = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        if self._seen is not x:
            self._seen, self.value = x, self._forward(x)
        return self.value


def tap_of(peer: str, tap: str) -> str:
    """Return what a peer's tap is called among the features of a cohort."""
    return f"{peer}/{tap}"


def names_in(taps: Mapping[str, Any], tap: str) -> tuple[str, ...]:
    """Return the keys under which the students of a cohort answer with this tap, the first student's first."""
    return (tap, *(key for key in taps if key.endswith(f"/{tap}")))


def branched(students: Mapping[str, TappedModel], *, alike: bool = False) -> Cohort:
    """Return a cohort of students of one architecture that share everything below the last level of resolution.

    That trunk is the first student's. `alike` says that all begin with the same weights: the branches but the first are then
    moved apart a little, for with equal weights they would learn equally for ever. Raises `UsageError` for a model that does
    not say where its levels are.
    """
    first, *others = students.values()
    names = trunk_of(first)
    trunk = [first.get_submodule(name) for name in names]
    for other in others:
        for name, module in zip(names, trunk, strict=True):
            parent, _, leaf = name.rpartition(".")
            setattr(other.get_submodule(parent), leaf, module)
        if alike:
            shared = {id(parameter) for module in trunk for parameter in module.parameters()}
            _move_apart([p for p in other.parameters() if id(p) not in shared and p.ndim > 1])
    return Cohort(students, trunk=trunk)


def copies_of(student: TappedModel, names: Sequence[str]) -> dict[str, TappedModel]:
    """Return a student under the first name and copies of it under the others."""
    return {name: copy.deepcopy(student) if at else student for at, name in enumerate(names)}


def trunk_of(student: TappedModel) -> tuple[str, ...]:
    """Return the names of the modules, in the order they run, up to the end of the last level of resolution but one."""
    levels = getattr(student.model, "feature_info", None)
    known = [(level["module"], level["reduction"]) for level in (levels or [])]
    below = [module for module, reduction in known if reduction < max(r for _, r in known)]
    ran = _in_order(student)
    inside = [(f"{name}.", f"model.{level}.") for name in ran for level in below]
    ends = [ran.index(name[:-1]) for name, level in inside if level.startswith(name) or name.startswith(level)]
    if not ends:
        raise UsageError(
            f"{student.name} cannot be branched: it does not say at which module its resolution changes",
            mend="use a convolutional student, or `method: mutual` with `peers:`",
        )
    return tuple(ran[: max(ends) + 1])


def _in_order(student: TappedModel) -> list[str]:
    """Return the names of the model's stages in the order they run: its children, those of sequences in their place."""
    stages: dict[str, nn.Module] = {}
    for name, child in student.model.named_children():
        inner = child.named_children() if isinstance(child, nn.Sequential) else ()
        found = {f"model.{name}.{below}": module for below, module in inner}
        stages |= found or {f"model.{name}": child}
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: ran.append(name))
        for name, module in stages.items()
    ]
    try:
        student.spec(("logits",))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(ran))


def _move_apart(weights: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn_like(weight), alpha=_APART * float(weight.std(unbiased=False)))
