"""One distribution over all classes, from teachers that each know some of them (UHC, Vongkulbhisal et al. 2019).

What teacher i says of its classes L_i is taken as p_i(l) = q(l) / sum_{k in L_i} q(k) of one q over all of them, which is
looked for image by image. It is determined if every class is known to a teacher, and the teachers are connected by classes
that they share; else only ratios within groups are.

Axes: B batch, K classes, T teachers; K_i the classes of teacher i.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor

from edgekd.core.errors import UsageError
from edgekd.distilling.precision import in_float64

Estimator = Literal["cross_entropy", "factorisation"]

_FLOOR = 1e-8  # a class that a teacher rules out would otherwise send log q to minus infinity
_STEPS = 50
_HALVINGS = 12
_SHOWN = 5


@torch.no_grad()
def unify(
    probabilities: Sequence[Tensor],
    class_sets: Sequence[Sequence[Hashable]],
    classes: Sequence[Hashable],
    *,
    estimator: Estimator = "cross_entropy",
) -> Tensor:
    """Return q_BK over `classes`, given probabilities[i]_BK_i of teacher i over class_sets[i], columns in that order.

    `cross_entropy` minimises sum_i H(p_i, q restricted to L_i and renormalised), convex in log q, by Newton's method.
    `factorisation` finds q, u > 0 with the least squared error of p_i(l) - q(l) u_i, alternately, from the solution for
    logarithms. Where teachers agree both give the same q, exactly. Probabilities below 1e-8 count as that.

    Raises `UsageError` if a class is known to no teacher, or if the teachers fall into groups that share no class.
    """
    known_TK, columns = _known(class_sets, classes)
    check_connected(class_sets, classes)
    _refuse_misfits(probabilities, class_sets)
    rows, exact = len(probabilities[0]), [in_float64(p_BK).clamp(min=_FLOOR) for p_BK in probabilities]
    p_BTK = torch.zeros(rows, *known_TK.shape, dtype=torch.float64, device=exact[0].device)
    for teacher, (p_BK, column_K) in enumerate(zip(exact, columns, strict=True)):
        p_BTK[:, teacher, column_K] = p_BK / p_BK.sum(dim=1, keepdim=True)
    known_TK = known_TK.to(p_BTK.device)
    log_q_BK = _log_least_squares(p_BTK, known_TK)
    match estimator:
        case "cross_entropy":
            q_BK = torch.softmax(_newton(log_q_BK, p_BTK, known_TK), dim=1)
        case "factorisation":
            q_BK = _alternate(torch.softmax(log_q_BK, dim=1), p_BTK, known_TK)
        case _:
            assert_never(estimator)
    return q_BK.to(probabilities[0])


def check_connected(class_sets: Sequence[Sequence[Hashable]], classes: Sequence[Hashable]) -> None:
    """Raise `UsageError` unless the teachers' classes determine one distribution over all classes."""
    known_TK, _ = _known(class_sets, classes)
    unknown = [name for name, by in zip(classes, known_TK.any(dim=0).tolist(), strict=True) if not by]
    if unknown:
        raise UsageError(
            f"no teacher knows {_listed(unknown)}: {len(unknown)} of {len(classes)} classes",
            mend="add a teacher that does, or leave these classes out",
        )
    reached = known_TK[0].clone()
    joined = torch.zeros(len(known_TK), dtype=torch.bool)
    while bool((newly := (known_TK & reached).any(dim=1) & ~joined).any()):
        joined |= newly
        reached |= known_TK[joined].any(dim=0)
    if not bool(joined.all()):
        apart = [index for index, one in enumerate(joined.tolist()) if not one]
        together = [index for index, one in enumerate(joined.tolist()) if one]
        raise UsageError(
            f"teachers {_numbered(together)} and teachers {_numbered(apart)} share no class, so how likely the ones' classes"
            " are against the others' is not determined",
            mend="add a teacher that knows classes of both, or let their class sets overlap",
        )


def _known(class_sets: Sequence[Sequence[Hashable]], classes: Sequence[Hashable]) -> tuple[Tensor, list[list[int]]]:
    """Return which teacher knows which class, and each teacher's columns."""
    place = {name: index for index, name in enumerate(classes)}
    if len(place) < len(classes):
        raise UsageError("a class is named twice among all classes")
    if not class_sets:
        raise UsageError("there is no teacher to unify")
    columns = []
    for teacher, names in enumerate(class_sets):
        strange = [name for name in names if name not in place]
        if strange or len(set(names)) < len(names) or not names:
            what = f"knows {_listed(strange)}, which are no classes here" if strange else "has no classes, or one of them twice"
            raise UsageError(f"teacher {teacher + 1} of {len(class_sets)} {what}")
        columns.append([place[name] for name in names])
    known_TK = torch.zeros(len(class_sets), len(classes), dtype=torch.bool)
    for teacher, column_K in enumerate(columns):
        known_TK[teacher, column_K] = True
    return known_TK, columns


def _refuse_misfits(probabilities: Sequence[Tensor], class_sets: Sequence[Sequence[Hashable]]) -> None:
    if len(probabilities) != len(class_sets):
        raise ValueError(f"{len(probabilities)} teachers answer, and there are {len(class_sets)} sets of classes")
    for teacher, (p_BK, names) in enumerate(zip(probabilities, class_sets, strict=True)):
        if p_BK.ndim != 2 or p_BK.shape != (len(probabilities[0]), len(names)):
            raise ValueError(f"teacher {teacher + 1} answers {tuple(p_BK.shape)} for {len(names)} classes")


def _log_least_squares(p_BTK: Tensor, known_TK: Tensor) -> Tensor:
    """Return a_BK of the least squared error of log p - a(l) - b(i): exact where the teachers agree, linear to solve.

    Without the classes, b solves a Laplacian of the graph of teachers, the same for all images; its null space is their level.
    """
    known = known_TK.to(p_BTK)
    log_p_BTK = torch.where(known_TK, p_BTK, 1).log()
    by_K = known.sum(dim=0)
    laplacian_TT = torch.diag(known.sum(dim=1)) - (known / by_K) @ known.T
    level_TT = torch.ones_like(laplacian_TT) / len(known)
    mean_BK = log_p_BTK.sum(dim=1) / by_K
    residual_BT = ((log_p_BTK - mean_BK.unsqueeze(1)) * known).sum(dim=2)
    b_BT = torch.linalg.solve(laplacian_TT + level_TT, residual_BT.T).T
    log_q_BK: Tensor = mean_BK - b_BT @ known / by_K
    return log_q_BK


def _newton(u_BK: Tensor, p_BTK: Tensor, known_TK: Tensor) -> Tensor:
    """Return u_BK = log q, up to a constant, that minimises sum_i log sum_{L_i} exp u - p_i . u.

    The Hessian is D - S^T S with S the restricted softmaxes, so a step costs a system of as many unknowns as teachers
    (Woodbury). Steps are halved, image by image, until the objective falls.
    """
    count_K = p_BTK.sum(dim=1)
    value_B = _objective(u_BK, count_K, known_TK)
    for _ in range(_STEPS):
        step_BK = _newton_step(u_BK, count_K, known_TK)
        moved_B = torch.zeros_like(value_B, dtype=torch.bool)
        share = 1.0
        for _ in range(_HALVINGS):
            tried_BK = u_BK + share * step_BK
            tried_B = _objective(tried_BK, count_K, known_TK)
            better_B = (tried_B < value_B) & ~moved_B
            u_BK, value_B = torch.where(better_B[:, None], tried_BK, u_BK), torch.where(better_B, tried_B, value_B)
            moved_B |= better_B
            if bool(moved_B.all()):
                break
            share /= 2
        if not bool(moved_B.any()) or float(step_BK.abs().max()) < 1e-10:
            break
    return u_BK


def _newton_step(u_BK: Tensor, count_K: Tensor, known_TK: Tensor) -> Tensor:
    s_BTK = _restricted(u_BK, known_TK)
    d_BK = s_BTK.sum(dim=1)
    gradient_BK = d_BK - count_K
    scaled_BTK = s_BTK / d_BK.unsqueeze(1)
    teachers = len(known_TK)
    eye_TT = torch.eye(teachers, dtype=u_BK.dtype, device=u_BK.device)
    inner_BTT = eye_TT - scaled_BTK @ s_BTK.mT + 1 / teachers  # the last term fixes the level, along which nothing changes
    y_BT = torch.linalg.solve(inner_BTT, -(scaled_BTK @ gradient_BK.unsqueeze(2)).squeeze(2))
    step_BK = (-gradient_BK + (y_BT.unsqueeze(1) @ s_BTK).squeeze(1)) / d_BK
    level_BK: Tensor = step_BK - step_BK.mean(dim=1, keepdim=True)
    return level_BK


def _restricted(u_BK: Tensor, known_TK: Tensor) -> Tensor:
    return torch.softmax(u_BK.unsqueeze(1).masked_fill(~known_TK, -torch.inf), dim=2)


def _objective(u_BK: Tensor, count_K: Tensor, known_TK: Tensor) -> Tensor:
    normaliser_BT = torch.logsumexp(u_BK.unsqueeze(1).masked_fill(~known_TK, -torch.inf), dim=2)
    return normaliser_BT.sum(dim=1) - (count_K * u_BK).sum(dim=1)


def _alternate(q_BK: Tensor, p_BTK: Tensor, known_TK: Tensor) -> Tensor:
    """Return q_BK, normalised, of the least squared error of p_i(l) - q(l) u_i, by solving for u and for q in turns."""
    known = known_TK.to(p_BTK)
    for _ in range(_STEPS):
        before_BK = q_BK
        u_BT = (p_BTK @ q_BK.unsqueeze(2)).squeeze(2) / (q_BK.square() @ known.T)
        q_BK = (p_BTK * u_BT.unsqueeze(2)).sum(dim=1) / (u_BT.square() @ known)
        q_BK = q_BK / q_BK.sum(dim=1, keepdim=True)
        if float((q_BK - before_BK).abs().max()) < 1e-12:
            break
    return q_BK


def _listed(names: Sequence[Hashable]) -> str:
    shown = ", ".join(map(str, names[:_SHOWN]))
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _numbered(indices: Sequence[int]) -> str:
    return ", ".join(str(index + 1) for index in indices)
