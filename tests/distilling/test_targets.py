"""Targets against published vectors, hand-worked numbers, and float64 numpy derivations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgekd.core.errors import DataError, UsageError
from edgekd.distilling.rotation import equalising_rotation
from edgekd.distilling.targets import (
    Basis,
    Covariance,
    Target,
    auto_temperature,
    check_rank,
    fit_target,
    greatest_variance,
    matched_deviations,
    nearest_channels,
    phi_s,
    pts,
    standardise,
)

TOY = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]) + torch.tensor([10.0, 20, 30])
PROJECTED = ("svd", "svd_std", "svd_std_sorted", "svd_pts", "whiten", "phi_s")
NARROWER = (*PROJECTED, "select", "interpolate")
KINDS = (*NARROWER, "raw", "standardise")


def features(seed: int = 0, *, rows: int = 400, width: int = 8) -> Tensor:
    """Correlated rows with distinct variances and a mean far from 0, float64."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, width)) * np.geomspace(4, 0.5, width) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    return torch.from_numpy(mixed * np.linspace(0.5, 2, width) + rng.normal(size=width) * 5)


def variances(x: Tensor) -> list[float]:
    return [float(v) for v in x.double().var(dim=0, unbiased=False)]


# ---- published vectors


@pytest.mark.parametrize(
    ("value", "temperature", "exponent", "expected"),
    [
        (-8, 1, 3, -2),
        (0.1, 0.1, 3, 1),
        (0.8, 0.1, 3, 2),
        (-0.0008, 0.1, 3, -0.2),
        (8, 8, 2, 1),
        (2, 0.2, 2, 3.162278),
        (0, 1, 3, 0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pts_matches_the_published_vectors(
    value: float, temperature: float, exponent: float, expected: float, dtype: torch.dtype
) -> None:
    """Signed roots of value / T, in the input's type; T may be a tensor."""
    given_features = torch.tensor([[value]], dtype=dtype)
    for t in (temperature, torch.tensor(temperature, dtype=dtype)):
        found = pts(given_features, temperature=t, exponent=exponent)
        assert found.dtype == dtype
        assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_matches_the_published_vector(dtype: torch.dtype) -> None:
    """Mean (10, 20, 30), S (2.828427, 1.414214, 0), coefficients (2, 0) (2, 0) (0, 1) (0, 1) up to signs."""
    basis = Basis.fit(TOY.to(dtype), dim=3)
    assert basis.mean_D.tolist() == [10, 20, 30]
    assert basis.singular_values_K.tolist() == pytest.approx([2.828427, 1.414214, 0], abs=1e-6)
    assert basis.eigenvalues.tolist() == pytest.approx([2, 0.5, 0], abs=1e-6)
    projected = Basis.fit(TOY.to(dtype), dim=2).project(TOY.to(dtype))
    assert projected.dtype == basis.mean_D.dtype == basis.directions_DK.dtype == basis.singular_values_K.dtype == dtype
    assert projected.abs().tolist() == [pytest.approx(row, abs=1e-6) for row in ([2, 0], [2, 0], [0, 1], [0, 1])]


@pytest.mark.parametrize(("exponent", "expected"), [(3, 0.520242), (2, 0.75)])
def test_the_automatic_temperature_matches_the_published_vector(exponent: float, expected: float) -> None:
    """On the vector's coefficients, and the mean square of the targets is then 1."""
    coefficients = Basis.fit(TOY, dim=2).project(TOY)
    temperature = auto_temperature(coefficients, exponent=exponent)
    assert float(temperature) == pytest.approx(expected, abs=1e-6)
    assert float(pts(coefficients, temperature=temperature, exponent=exponent).square().mean()) == pytest.approx(1, abs=1e-6)


def test_phi_s_matches_the_published_vector() -> None:
    """Uncorrelated variances 9 and 1 become [[1, .8], [.8, 1]] by the 2 x 2 Hadamard matrix."""
    x = torch.tensor([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    for rotated in (phi_s(x), phi_s(x, basis=Basis.fit(x, dim=2)), fit_target("phi_s", x, dim=2)(x)):
        assert (rotated.T @ rotated / 4).flatten().tolist() == pytest.approx([1, 0.8, 0.8, 1], abs=1e-6)


def test_the_basis_is_centred() -> None:
    """Without centring the singular values would be 74.8408, 2.7353, 1.1724 (a published mistake)."""
    uncentred = np.linalg.svd(TOY.numpy(), compute_uv=False)
    assert uncentred.tolist() == pytest.approx([74.8408, 2.7353, 1.1724], abs=1e-4)
    assert float(Basis.fit(TOY, dim=3).singular_values_K[0]) < 3


# ---- pts


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(0.01, 10), st.floats(1, 5), st.floats(0.01, 100))
def test_pts_is_odd_increasing_and_homogeneous(values: list[float], temperature: float, exponent: float, factor: float) -> None:
    """PTS(f; T, n) = T^(-1/n) PTS(f; 1, n), PTS(a f) = a^(1/n) PTS(f), PTS(-f) = -PTS(f), and order is kept."""
    f = torch.tensor([sorted(values)], dtype=torch.float64)
    y = pts(f, temperature=temperature, exponent=exponent)
    torch.testing.assert_close(y, temperature ** (-1 / exponent) * pts(f, temperature=1.0, exponent=exponent))
    torch.testing.assert_close(pts(factor * f, temperature=temperature, exponent=exponent), factor ** (1 / exponent) * y)
    assert torch.equal(pts(-f, temperature=temperature, exponent=exponent), -y)
    assert bool((y.diff() >= 0).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1, 6), st.floats(1e-3, 1e3))
def test_the_automatic_temperature_gives_unit_mean_squares(seed: int, exponent: float, scale: float) -> None:
    """For any exponent and scale of the features."""
    g = scale * features(seed, rows=30)
    for typed in (g, g.float()):
        temperature = auto_temperature(typed, exponent=exponent)
        assert temperature.dtype == typed.dtype
        assert float(pts(typed, temperature=temperature, exponent=exponent).square().mean()) == pytest.approx(1, rel=1e-5)


def test_impossible_temperatures_are_refused() -> None:
    """T and n must be above 0, and targets of nothing but 0 have no temperature."""
    for temperature, exponent in ((0.0, 3.0), (-1.0, 3.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            pts(TOY, temperature=temperature, exponent=exponent)
    with pytest.raises(UsageError, match="all 0"):
        auto_temperature(torch.zeros(3, 2), exponent=3)


# ---- covariance and basis


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streamed_covariance_is_numpys(offset: float) -> None:
    """In chunks of any size as at once, and for means a million times the deviations."""
    x = features(1) + offset
    expected = np.cov((x - offset).numpy(), rowvar=False, bias=True)
    for sizes in ([400], [1, 399], [100, 0, 250, 50], [7] * 57 + [1]):
        covariance = Covariance()
        for chunk in x.split(sizes):
            covariance.update(chunk)
        assert covariance.rows == 400
        np.testing.assert_allclose(covariance.matrix.numpy(), expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(covariance.mean_D.numpy(), x.numpy().mean(axis=0), rtol=1e-13)


def test_rows_beyond_one_chunk_count() -> None:
    """More rows than are taken at a time (4,096) in one call."""
    x = features(2, rows=9000, width=3)
    covariance = Covariance()
    covariance.update(x)
    np.testing.assert_allclose(covariance.matrix.numpy(), np.cov(x.numpy(), rowvar=False, bias=True), rtol=1e-10)
    torch.testing.assert_close(standardise(x), (x - x.mean(0)) / x.std(0, unbiased=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_basis_is_the_singular_value_decomposition(dtype: torch.dtype) -> None:
    """Singular values and projections of numpy's SVD of the centred rows, at least in float32."""
    x = features(3).to(dtype)
    centred = x.double().numpy() - x.double().numpy().mean(axis=0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    basis = Basis.fit(x, dim=5)
    assert basis.directions_DK.dtype == torch.promote_types(dtype, torch.float32)
    np.testing.assert_allclose(basis.singular_values_K.double().numpy(), s[:5], rtol=1e-5)
    np.testing.assert_allclose(basis.project(x).abs().double().numpy(), np.abs(centred @ vt[:5].T), rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_directions_are_orthonormal_with_fixed_signs(seed: int, dim: int) -> None:
    """V^T V = I, the mean projects to 0, and the largest entry of each direction is positive."""
    basis = Basis.fit(features(seed, rows=50), dim=dim)
    v = basis.directions_DK
    torch.testing.assert_close(v.T @ v, torch.eye(dim, dtype=torch.float64), atol=1e-10, rtol=0)
    assert float(basis.project(basis.mean_D.unsqueeze(0)).abs().max()) < 1e-10
    assert bool((v.gather(0, v.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_a_tie_for_the_largest_entry_goes_to_the_first() -> None:
    """Directions (1, 1) and (1, -1) over sqrt 2: rounding must not choose the sign."""
    for seed in range(5):
        t = torch.from_numpy(np.random.default_rng(seed).normal(size=(50, 2)))
        x = torch.stack([3 * t[:, 0] + t[:, 1], 3 * t[:, 0] - t[:, 1]], dim=1)
        x = torch.cat([x, x.flip(1)])
        assert Basis.fit(x, dim=2).directions_DK.sign().tolist() == [[1, 1], [1, -1]]


@pytest.mark.parametrize("kind", [kind for kind in PROJECTED if kind != "phi_s"])
def test_permuting_or_rotating_the_teacher_changes_signs_only(kind: str) -> None:
    """With the basis fitted anew, targets are the same up to column signs."""
    x = features(4)
    permutation = torch.from_numpy(np.random.default_rng(5).permutation(8))
    expected = fit_target(kind, x, dim=5, ratio=3.0)(x).abs()
    torch.testing.assert_close(
        fit_target(kind, x[:, permutation], dim=5, ratio=3.0)(x[:, permutation]).abs(), expected, atol=2e-4, rtol=1e-4
    )
    if kind != "svd_std_sorted":  # it borrows the channels' own deviations, which a rotation changes
        rotation = torch.linalg.qr(features(6, rows=8)).Q
        torch.testing.assert_close(
            fit_target(kind, x @ rotation, dim=5, ratio=3.0)(x @ rotation).abs(), expected, atol=2e-4, rtol=1e-4
        )


def test_flipped_directions_leave_the_energy_of_the_target() -> None:
    """The sum of squares of a PTS target does not depend on the signs of V."""
    x = features(7)
    basis = Basis.fit(x, dim=4)
    flipped = basis.directions_DK * torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)
    one = pts(basis.project(x), temperature=0.1, exponent=3)
    other = pts((x - basis.mean_D) @ flipped, temperature=0.1, exponent=3)
    torch.testing.assert_close(one.square().sum(dim=1), other.square().sum(dim=1))


def test_too_wide_a_basis_is_refused() -> None:
    """The message names both widths and how to widen the teacher."""
    with pytest.raises(UsageError, match=r"9 channels cannot be had from a teacher's features of 8") as refusal:
        Basis.fit(features(), dim=9)
    assert "patch_mean+last_3" in refusal.value.mend


def test_numbers_that_are_not_finite_are_refused() -> None:
    """A teacher that overflowed gives no basis."""
    x = features()
    x[3, 2] = math.inf
    with pytest.raises(DataError, match="not finite"):
        Basis.fit(x, dim=2)


def test_a_basis_of_noise_is_refused() -> None:
    """Fewer than 10 rows a direction, or a last direction below 1e-6 of the first, in the numbers' own words."""
    Basis.fit(features(rows=80), dim=8).check_rank()
    with pytest.raises(UsageError, match=r"79 rows .* too few for a basis of 8 directions: 10 a direction are needed, 80"):
        Basis.fit(features(rows=79), dim=8).check_rank()
    check_rank(torch.tensor([1000.0, 1.001]), rows=20)
    with pytest.raises(UsageError, match=r"do not fill 3 directions: the last one varies 9\.8e-07 .*1e-06\); 2 directions do"):
        check_rank(torch.tensor([1000.0, 5.0, 0.99]), rows=30)
    with pytest.raises(UsageError, match="0 directions do"):
        check_rank(torch.zeros(2), rows=30)
    layer_normed = features() - features().mean(dim=1, keepdim=True)  # sums to 0: one direction less than channels
    with pytest.raises(UsageError, match="7 directions do"):
        fit_target("svd_pts", layer_normed.float(), dim=8).check_rank()


def test_kinds_without_a_basis_have_no_rank_to_check() -> None:
    """Two rows are enough for a channel selection."""
    fit_target("select", features(rows=2), dim=3).check_rank()


# ---- rotations


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 60, 192, 576])
def test_hadamard_widths_equalise_any_variances(size: int) -> None:
    """Orthogonal, with entries of one magnitude; all variances become the mean whatever they are."""
    q = equalising_rotation(torch.ones(size))
    assert q.dtype == torch.float64
    torch.testing.assert_close(q @ q.T, torch.eye(size, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(q.abs(), torch.full_like(q, size**-0.5))


@pytest.mark.parametrize("size", [3, 5, 7, 28, 36, 50, 99])
def test_other_widths_are_levelled_for_their_variances(size: int) -> None:
    """Orthogonal, and the diagonal of Q diag(lambda) Q^T is the mean of lambda; a zero tail or equal variances included."""
    for variance_K in (torch.logspace(2, -6, size).double(), torch.ones(size).double(), (torch.arange(size) < 2).double()):
        q = equalising_rotation(variance_K)
        torch.testing.assert_close(q @ q.T, torch.eye(size, dtype=torch.float64), atol=1e-10, rtol=0)
        diagonal = ((q * variance_K) @ q.T).diagonal()
        torch.testing.assert_close(diagonal, variance_K.mean().expand(size), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [7, 8])
def test_phi_s_keeps_geometry_with_one_scale(width: int) -> None:
    """Every channel has variance 1, and distances between rows are the features' own times one number."""
    x = features(8, width=width)
    y = phi_s(x)
    assert y.dtype == torch.float64
    assert variances(y) == pytest.approx([1] * width, rel=1e-9)
    ratio = torch.pdist(y) / torch.pdist(x)
    assert float(ratio.std() / ratio.mean()) < 1e-9
    assert phi_s(x.float()).dtype == torch.float32


# ---- channels


def test_standardise_takes_given_or_own_statistics() -> None:
    """(x - mean) / std a channel, over N; a channel that never varies becomes 0, not infinite, on new rows too."""
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    assert standardise(x).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert standardise(x, x.mean(0), x.std(0, unbiased=False)).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert standardise(torch.tensor([[4.0, 7.5]]), x.mean(0), x.std(0, unbiased=False)).tolist() == [[2.0, 0.0]]
    column = torch.tensor([[1.0], [2.0], [3.0]]).double()
    assert standardise(column, column.mean(0), column.std(0)).flatten().tolist() == [-1, 0, 1]


def test_the_channels_of_greatest_variance_are_selected() -> None:
    """Greatest first, by variance, not by magnitude."""
    x = torch.tensor([[0.0, 100.0, 5.0, 0.0], [1.0, 100.5, -5.0, 9.0]])
    assert greatest_variance(x, dim=3).tolist() == [2, 3, 0]
    assert fit_target("select", x, dim=2)(x).tolist() == [[5.0, 0.0], [-5.0, 9.0]]


@pytest.mark.parametrize(("width", "dim"), [(8, 3), (768, 576), (5, 5), (4, 7), (2048, 1280)])
def test_interpolation_is_torchs_default(width: int, dim: int) -> None:
    """The nearest resize of the channel axis."""
    x = torch.randn(3, width)
    expected = functional.interpolate(x.unsqueeze(1), size=dim).squeeze(1)
    assert torch.equal(x[:, nearest_channels(width, dim=dim)], expected)
    assert torch.equal(fit_target("interpolate", x, dim=dim)(x), expected)


# ---- the kinds


def test_matched_deviations_run_linearly_from_the_ratio_to_one() -> None:
    """S = (10, 4, 1) with R = 4: (4, 2, 1); equal singular values give 1."""
    assert matched_deviations(torch.tensor([10.0, 4.0, 1.0]), ratio=4.0).tolist() == pytest.approx([4, 2, 1])
    assert matched_deviations(torch.full((2,), 3.0), ratio=4.0).tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_what_it_says(kind: str) -> None:
    """Against numpy, with a width that changes where it may; statistics from the fitted rows, applied to new ones."""
    x, new = features(9), features(9, rows=500)[400:]
    a, b = x.numpy(), new.numpy()
    mean, std = a.mean(axis=0), a.std(axis=0)
    _, s, vt = np.linalg.svd(a - mean, full_matrices=False)
    g = (b - mean) @ vt[:4].T
    unit = g / (s[:4] / np.sqrt(len(a)))
    temperature = np.mean(np.abs((a - mean) @ vt[:4].T) ** (2 / 3)) ** 1.5
    ratio = std.max() / std.min()
    expected = {
        "raw": b,
        "standardise": (b - mean) / std,
        "select": b[:, np.argsort(-std)[:4]],
        "interpolate": b[:, ::2],
        "svd": g,
        "svd_pts": np.sign(g) * np.abs(g / temperature) ** (1 / 3),
        "svd_std": unit * (1 + (ratio - 1) * (s[:4] - s[3]) / (s[0] - s[3])),
        "svd_std_sorted": unit * np.sort(std)[::-1][:4],
        "whiten": unit,
        "phi_s": None,
    }[kind]
    target = fit_target(kind, x, dim=4 if kind in NARROWER else 8)
    found = target(new)
    assert found.dtype == torch.float32
    if expected is None:
        assert variances(target(x)) == pytest.approx([1] * 4, rel=1e-5)
    elif kind in PROJECTED:
        np.testing.assert_allclose(found.abs().numpy(), np.abs(expected), rtol=2e-4, atol=2e-4)
    else:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_given_temperature_is_kept() -> None:
    """The authors' T = 0.1 and n = 3, against `pts` on the projection."""
    x = features(10)
    target = fit_target("svd_pts", x, dim=4, exponent=3, temperature=0.1)
    torch.testing.assert_close(
        target(x), pts(Basis.fit(x, dim=4).project(x), temperature=0.1, exponent=3).float(), atol=1e-4, rtol=1e-4
    )
    assert float(target.temperature) == pytest.approx(0.1)


def test_a_ratio_of_dead_channels_must_be_given() -> None:
    """A channel that never varies gives no measured ratio; a given one serves."""
    x = features()
    x[:, 2] = 1.0
    with pytest.raises(UsageError, match="no ratio for svd_std"):
        fit_target("svd_std", x, dim=4)
    target = fit_target("svd_std", x, dim=4, ratio=2.98)
    assert math.sqrt(variances(target(x))[0]) == pytest.approx(2.98, rel=1e-5)
    assert math.sqrt(variances(target(x))[3]) == pytest.approx(1, rel=1e-5)


def test_noise_is_not_whitened() -> None:
    """A direction without variance has no unit variance."""
    x = features()
    x[:, 7] = x[:, 0]
    with pytest.raises(UsageError, match=r"direction 8 .* hardly varies"):
        fit_target("whiten", x, dim=8)
    assert variances(fit_target("whiten", x, dim=7)(x)) == pytest.approx([1] * 7, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_restores_a_target(kind: str) -> None:
    """Into one that was built for the same widths and never fitted; shapes are known before fitting."""
    x = features(11)
    dim = 4 if kind in NARROWER else 8
    fitted = fit_target(kind, x, dim=dim)
    restored = Target(fitted.kind, width=8, dim=dim)
    assert bool(restored(x).isnan().all())
    restored.load_state_dict(fitted.state_dict())
    assert torch.equal(restored(x), fitted(x))
    assert int(restored.rows) == 400
    assert not list(restored.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_targets_do_not_lose_precision_under_autocast(kind: str) -> None:
    """Under bf16 autocast, fitting and applying give the same bits."""
    x = features(12).float()
    dim = 4 if kind in NARROWER else 8
    plain = fit_target(kind, x, dim=dim)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fit_target(kind, x, dim=dim)(x), plain)


@pytest.mark.parametrize("kind", ["raw", "standardise"])
def test_kinds_that_keep_the_width_say_so(kind: str) -> None:
    """A narrower student is told which kinds change the width."""
    with pytest.raises(UsageError, match="have 8 channels and the student's 4"):
        fit_target(kind, features(), dim=4)


@pytest.mark.parametrize("kind", [kind for kind in NARROWER if kind != "interpolate"])
def test_a_wider_student_is_refused_before_fitting(kind: str) -> None:
    """When the target is built, not after the teacher has run."""
    with pytest.raises(UsageError, match="cannot be had from a teacher's features of 8"):
        Target(kind, width=8, dim=9)


def test_unknown_kinds_and_other_widths_are_refused() -> None:
    """The kinds are listed; rows of another width are the caller's mistake."""
    with pytest.raises(UsageError, match="no target 'pca'") as refusal:
        fit_target("pca", features(), dim=4)
    assert "svd_pts" in refusal.value.mend
    with pytest.raises(ValueError, match="rows of 8 channels"):
        Target("svd", width=8, dim=4).fit(features(width=7))
