"""What each budget decides about one run by itself, and that it decides nothing without evidence."""

import math
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats as scipy_stats

from edgekd.core import stats
from edgekd.core.contracts import Budget
from edgekd.core.evidence import DeviceRule, Evidence
from edgekd.core.records import Finding, Report
from edgekd.judging.budgets import _floors
from edgekd.judging.budgets._subjects import Said
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.macs import Macs
from edgekd.judging.budgets.memory import Memory
from edgekd.judging.budgets.parameters import Parameters
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size


def ask(budget: Budget, report: Report, **given_: object) -> tuple[Finding, ...]:
    """Return what a budget finds in a report."""
    return budget.check(Evidence(report=report, **given_))


def with_latency(report: Report, **changes: object) -> Report:
    """Return the report with the first measurement only, changed."""
    summary = report.latencies[0].model_copy(update=changes)
    artifact = next(a for a in report.artifacts if a.name == summary.artifact)
    return report.model_copy(update={"artifacts": (artifact,), "latencies": (summary,)})


def with_artifact(report: Report, **changes: object) -> Report:
    """Return the report with the first artifact only, changed."""
    return report.model_copy(update={"artifacts": (report.artifacts[0].model_copy(update=changes),)})


# --------------------------------------------------------------------------------------------------------------- latency
@pytest.mark.parametrize(
    ("own_ms", "outcome"),
    [
        ((19.0, 19.1, 19.05), "pass"),
        ((21.0, 21.1, 21.05), "fail"),
        ((19.0, 21.0, 20.0), "inconclusive"),
        ((19.9, 18.0, 19.0), "inconclusive"),
        ((20.0, 20.0), "pass"),
    ],
)
@pytest.mark.parametrize("percentile", ["p50", "p90", "p95", "p99"])
def test_latency_is_decided_by_the_spread_of_processes(report: Report, own_ms: tuple, outcome: str, percentile: str) -> None:
    """Bounds over processes within the limit pass, above it fail, around it are inconclusive; the limit itself is allowed."""
    changed = with_latency(report, **{f"worker_{percentile}_ms": own_ms, f"{percentile}_ms": 19.7})
    (finding,) = ask(Latency(max="20ms", metric=f"latency.{percentile}"), changed)
    assert (finding.outcome, finding.value, finding.limit, finding.unit) == (outcome, 19.7, 20.0, "ms")
    assert finding.budget == f"latency {percentile}"
    assert finding.subject == "torch-fp32@local"
    assert bool(finding.needs) == (outcome == "inconclusive")


def test_the_bounds_of_a_latency_are_those_of_a_t_test(report: Report) -> None:
    """Both bounds, each wrong in 1 % of all cases, and the p-value, against scipy's t-test on the logarithms."""
    own_ms = (19.0, 19.4, 18.8, 19.1)
    (finding,) = ask(Latency(max="19ms"), with_latency(report, worker_p50_ms=own_ms))
    logs = [math.log(ms) for ms in own_ms]
    test = scipy_stats.ttest_1samp(logs, math.log(19.0), alternative="greater")
    assert finding.low == pytest.approx(math.exp(test.confidence_interval(0.99).low))
    assert finding.high == pytest.approx(
        math.exp(scipy_stats.ttest_1samp(logs, 0.0, alternative="less").confidence_interval(0.99).high)
    )
    assert finding.p_value == pytest.approx(test.pvalue)


def test_one_process_decides_nothing(report: Report) -> None:
    """The replicate is the process: one alone neither passes nor fails, and two are asked for."""
    (finding,) = ask(Latency(max="1s"), with_latency(report, worker_p50_ms=(1.0,), p50_ms=1.0))
    assert (finding.outcome, finding.value) == ("inconclusive", 1.0)
    assert "at least 2 processes" in finding.needs


def test_latency_compares_the_percentiles_apart(report: Report) -> None:
    """A p90 above the limit does not fail a p50 budget, and the other way round."""
    changed = with_latency(report, worker_p50_ms=(1.0, 1.0), worker_p90_ms=(9.0, 9.0))
    assert ask(Latency(max="5ms"), changed)[0].outcome == "pass"
    assert ask(Latency(max="5ms", metric="latency.p90"), changed)[0].outcome == "fail"


@pytest.mark.parametrize(
    ("text", "exact_ns"), [("800us", 800_000), ("0.8ms", 800_000), ("1.3ms", 1_300_000), ("333333ns", 333_333)]
)
def test_latency_exactly_at_the_limit_passes(report: Report, text: str, exact_ns: int) -> None:
    """A time of exactly the limit passes and one nanosecond more fails, whatever the unit."""
    at, above = (with_latency(report, worker_p50_ms=(ns / 1e6,) * 3) for ns in (exact_ns, exact_ns + 1))
    assert ask(Latency(max=text), at)[0].outcome == "pass"
    assert ask(Latency(max=text), above)[0].outcome == "fail"


def test_latency_that_cannot_be_trusted_is_inconclusive(report: Report) -> None:
    """An untrusted measurement neither passes nor fails, and the reason is repeated."""
    changed = with_latency(report, trusted=False, untrusted_because=("unstable: from 1 to 9 ms",), worker_p50_ms=(0.1, 0.1))
    (finding,) = ask(Latency(max="20ms"), changed)
    assert finding.outcome == "inconclusive"
    assert "unstable: from 1 to 9 ms" in finding.because


def test_an_estimate_is_no_measurement(report: Report) -> None:
    """What a predictor says passes no gate, and no figure of it is shown as one."""
    (finding,) = ask(Latency(max="20ms"), with_latency(report, kind="estimate"))
    assert (finding.outcome, finding.value) == ("inconclusive", None)
    assert "estimate" in finding.because


@pytest.mark.parametrize(("limit", "outcome"), [("9.1ms", "pass"), ("8.9ms", "inconclusive"), ("0.32ms", "fail")])
def test_an_unsteady_measurement_decides_limits_beyond_its_blur(report: Report, limit: str, outcome: str) -> None:
    """Processes of 3 ms, or of 1 ms, misleading by up to 3: within 9 ms for sure, above 0.33 ms for sure, open between."""
    own = (1.0,) * 3 if outcome == "fail" else (3.0,) * 3
    changed = with_latency(report, trusted=False, untrusted_because=("unstable: why",), worker_p50_ms=own, blur=3.0)
    (finding,) = ask(Latency(max=limit), changed)
    assert finding.outcome == outcome
    assert "by a factor of 3.00, which was allowed for: unstable: why" in finding.because


def test_latency_with_too_few_samples_says_how_many_are_needed(report: Report, reports: ModuleType) -> None:
    """A withheld percentile is inconclusive and names the floor and what there is."""
    changed = with_latency(report, p90_ms=None, worker_p90_ms=(), withheld=("p90 needs 64 samples, there are 60",))
    (finding,) = ask(Latency(max="20ms", metric="latency.p90"), changed)
    assert (finding.outcome, finding.value) == ("inconclusive", None)
    assert "p90 needs 64 samples, there are 60" in finding.because


def test_latency_with_one_short_process_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """Enough samples together are not enough in each process: the replicate is the process."""
    summary = reports.summary(report.artifacts[0], workers=3, iterations=40)
    changed = report.model_copy(update={"artifacts": report.artifacts[:1], "latencies": (summary,)})
    assert summary.p90_ms is not None
    (finding,) = ask(Latency(max="20ms", metric="latency.p90"), changed)
    assert finding.outcome == "inconclusive"
    assert "the smallest has 40" in finding.because
    assert ask(Latency(max="20ms"), changed)[0].outcome == "pass"


def test_latency_without_measurement_is_inconclusive_for_each_artifact(report: Report) -> None:
    """An artifact that nobody timed is unknown, also when others were timed."""
    changed = report.model_copy(update={"latencies": report.latencies[:1]})
    found = ask(Latency(max="20ms"), changed)
    assert [f.outcome for f in found] == ["pass", *["inconclusive"] * 3]
    assert "was not measured; run edgekd bench" in found[1].because


def test_latency_filters_by_artifact_runtime_precision_and_device(report: Report) -> None:
    """Names and shell patterns, one or several, choose what is judged; one that matches nothing is inconclusive, not passed."""
    openvino = ["openvino-fp32@local", "openvino-fp16@local"]
    assert [f.subject for f in ask(Latency(max="20ms", artifact="openvino-*"), report)] == openvino
    assert [f.subject for f in ask(Latency(max="20ms", runtime=("openvino", "tensorrt")), report)] == openvino
    assert [f.subject for f in ask(Latency(max="20ms", runtime="openvino", precision="fp16"), report)] == openvino[1:]
    (none,) = ask(Latency(max="20ms", artifact="tensorrt-*"), report)
    assert none.outcome == "inconclusive"
    assert "torch-fp32, onnxruntime-fp32" in none.because
    found = ask(Latency(max="20ms", artifact="torch-fp32", device="pi5*"), report)
    assert [(f.outcome, f.subject) for f in found] == [("inconclusive", "torch-fp32@pi5*")]
    assert "'pi5*'" in found[0].because


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        (DeviceRule(device_state="sha256:abcdef01"), "pass"),
        (DeviceRule(device_state="abcdef02"), "inconclusive"),
        (DeviceRule(device_class="1" * 64), "pass"),
        (DeviceRule(governor="performance"), "inconclusive"),
        (DeviceRule(), "pass"),
    ],
)
def test_a_limit_holds_on_the_device_that_it_was_written_for(report: Report, rule: DeviceRule, outcome: str) -> None:
    """Another state, class or governor than the budgets file describes is not comparable; unknown is not the same."""
    changed = with_latency(report, device_class="1" * 64, device_state="abcdef01" + "0" * 56)
    assert ask(Latency(max="20ms"), changed, devices={"loc*": rule})[0].outcome == outcome


def test_memory_and_cpu_are_decided_like_latency(report: Report) -> None:
    """Peak memory over the processes against a size."""
    found = ask(Memory(max="100MB", artifact="torch-fp32"), report)
    assert [(f.outcome, f.value, f.unit) for f in found] == [("pass", 91_000_000, "bytes")]
    assert ask(Memory(max="80MB", artifact="torch-fp32"), report)[0].outcome == "fail"


@given(st.lists(st.integers(10**3, 10**8), min_size=2, max_size=6), st.integers(10**3, 10**8), st.floats(0.3, 1))
def test_a_faster_measurement_never_turns_a_pass_into_a_fail(own_ns: list, limit_ns: int, factor: float) -> None:
    """Making every process faster by the same factor can only help."""
    from edgekd.judging.budgets import _deciding

    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    budget = Latency(max=f"{limit_ns}ns")
    said = Said(budget="b", limit=limit_ns / 1e6, unit="ms", alpha=0.01)

    def outcome(values: list[float]) -> int:
        summary = _Summary(tuple(values))
        found = _deciding.decide_absolute(summary, "s", said, quantity=budget.quantity(), written="x", share=1.0)
        return rank[found.outcome]

    assert outcome([ns * factor / 1e6 for ns in own_ns]) >= outcome([ns / 1e6 for ns in own_ns])


class _Summary:
    trusted, blur, untrusted_because, batch, threads = True, None, (), 1, 1

    def __init__(self, own_ms: tuple[float, ...]) -> None:
        self.worker_p50_ms, self.p50_ms = own_ms, own_ms[0]


# -------------------------------------------------------------------------------------------------------------- accuracy
def test_accuracy_is_decided_by_the_wilson_bound(report: Report) -> None:
    """71.25 % of 240 has the one-sided 99 % bounds 64.1 and 77.5 %: 64 % is proven, 78 % is refuted, 70 % and 71 % are open."""
    for limit, outcome in (("64%", "pass"), ("78%", "fail"), ("70%", "inconclusive"), ("71%", "inconclusive")):
        (finding,) = ask(AccuracyLimit(min=limit, of="student"), report)
        assert (finding.outcome, finding.value, finding.unit) == (outcome, 71.25, "%"), limit
    assert (finding.low, finding.high) == (pytest.approx(64.06, abs=0.05), pytest.approx(77.54, abs=0.05))


def test_accuracy_that_is_open_says_how_many_images_decide(report: Report) -> None:
    """At 71.25 % against 70 %, z^2 * 0.7 * 0.3 / 0.0125^2 = 7,273.6 images with z = 2.3263."""
    (finding,) = ask(AccuracyLimit(min="70%", of="student"), report)
    assert "7,274 images would decide it" in finding.because
    assert finding.needs == "7,274 validation images"


def test_accuracy_exactly_at_the_limit_says_that_nothing_decides(report: Report, reports: ModuleType) -> None:
    """A rate of exactly the limit stays open whatever the number of images."""
    changed = report.model_copy(update={"student": report.student.model_copy(update={"accuracy": reports.accuracy(120)})})
    (finding,) = ask(AccuracyLimit(min="50%", of="student"), changed)
    assert finding.outcome == "inconclusive"
    assert "no number decides it" in finding.because


def test_accuracy_is_of_every_artifact_or_of_the_student(report: Report, reports: ModuleType) -> None:
    """By default each artifact is judged; the student only if nothing was exported or it is asked for."""
    names = [artifact.name for artifact in report.artifacts]
    assert [f.subject for f in ask(AccuracyLimit(min="60%"), report)] == names
    assert [f.subject for f in ask(AccuracyLimit(min="60%", artifact="*-fp16"), report)] == ["openvino-fp16"]
    assert [f.subject for f in ask(AccuracyLimit(min="60%", of="student"), report)] == ["student"]
    assert [f.subject for f in ask(AccuracyLimit(min="60%"), reports.bare_report())] == ["student"]


def test_top5_has_a_floor_too(report: Report) -> None:
    """231 of 240 among the first five."""
    (finding,) = ask(AccuracyLimit(metric="accuracy.top5", min="90%", of="student"), report)
    assert (finding.outcome, finding.value) == ("pass", pytest.approx(100 * 231 / 240))


def test_accuracy_of_an_artifact_that_is_not_there_is_inconclusive(report: Report) -> None:
    """A pattern that matches no artifact passes nothing."""
    (finding,) = ask(AccuracyLimit(min="1%", artifact="tensorrt*"), report)
    assert (finding.outcome, finding.value) == ("inconclusive", None)


def test_accuracy_on_no_images_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """An artifact that was never tried is unknown."""
    nothing = reports.accuracy(0).model_copy(update={"images": 0})
    (finding,) = ask(AccuracyLimit(min="60%"), with_artifact(report, accuracy=nothing))
    assert finding.outcome == "inconclusive"


def test_accuracy_of_other_images_than_the_budget_names_is_inconclusive(report: Report) -> None:
    """A pinned digest holds: the same number on other images is another claim."""
    digest = report.student.data.digest
    assert ask(AccuracyLimit(min="60%", of="student", data=f"sha256:{digest[:12]}"), report)[0].outcome == "pass"
    (finding,) = ask(AccuracyLimit(min="60%", of="student", data="0" * 8), report)
    assert finding.outcome == "inconclusive"
    assert "others than the budget is about" in finding.because


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min": "60%", "min_gain": {"to": "undistilled"}},
        {"max": 0.3},
        {"metric": "accuracy.brier", "min": "60%"},
        {"metric": "accuracy.brier", "max": "60%"},
        {"metric": "accuracy.ece", "max": 0.05},
        {"metric": "accuracy.per_class", "min": "60%"},
        {"max_drop": {"to": "reference", "points": 1.0}},
        {"max_drop": {"to": "baseline", "points": 0.0}},
    ],
)
def test_an_accuracy_budget_is_one_claim_that_its_metric_can_make(options: dict) -> None:
    """No bound, two, one of another metric, or one against something without accuracy: refused with what is allowed."""
    with pytest.raises(ValidationError):
        AccuracyLimit.model_validate(options)


@given(st.integers(1, 2000), st.integers(1, 99), st.data())
def test_the_accuracy_floor_agrees_with_the_interval(images: int, limit: int, data: st.DataObject) -> None:
    """Pass exactly if the lower bound is at or above the limit, fail exactly if the upper is below."""
    correct = data.draw(st.integers(0, images))
    low, high = stats.wilson_bounds(correct, images, alpha=0.01)
    said = Said(budget="top-1", limit=limit, bound="at least", unit="%", alpha=0.01)
    outcome = _floors.judged(said, "x", correct, images, written=f"{limit}%").outcome
    assert (outcome == "pass") == (low >= limit / 100)
    assert (outcome == "fail") == (high < limit / 100)


# ---------------------------------------------------------------------------------------------------------------- exact
@pytest.mark.parametrize(("size_bytes", "outcome"), [(12_000_000, "pass"), (12_000_001, "fail")])
def test_size_is_exact(report: Report, size_bytes: int, outcome: str) -> None:
    """12 MB are 12,000,000 bytes and not one more."""
    (finding,) = ask(Size(max="12MB"), with_artifact(report, size_bytes=size_bytes))
    assert (finding.outcome, finding.value, finding.limit) == (outcome, size_bytes, 12e6)


def test_size_filters_and_needs_an_artifact(report: Report, reports: ModuleType) -> None:
    """A pattern chooses artifacts; nothing exported is inconclusive."""
    assert [f.subject for f in ask(Size(max="1GB", artifact="openvino-*"), report)] == ["openvino-fp32", "openvino-fp16"]
    (finding,) = ask(Size(max="1GB"), reports.bare_report())
    assert (finding.outcome, finding.value) == ("inconclusive", None)
    assert "Nothing was exported" in finding.because


@pytest.mark.parametrize(("limit", "outcome"), [(1_528_106, "pass"), (1_528_105, "fail"), ("1.5281M", "fail"), ("2M", "pass")])
def test_parameters_are_exact(report: Report, limit: int | str, outcome: str) -> None:
    """The student's 1,528,106 weights against a count as people write it."""
    assert [f.outcome for f in ask(Parameters(max=limit), report)] == [outcome]


@pytest.mark.parametrize(("value", "outcome"), [(0.3, "pass"), (0.27, "fail")])
def test_parameters_against_the_teachers(report: Report, value: float, outcome: str) -> None:
    """1,528,106 of 5,524,416 are 27.66 %."""
    (finding,) = ask(Parameters(max_ratio={"to": "teacher", "value": value}), report)
    assert (finding.outcome, finding.against) == (outcome, "teacher")
    assert finding.value == pytest.approx(0.27661, rel=1e-4)


def test_what_is_not_counted_or_has_no_counterpart_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """MACs of an older export, a ratio without a baseline, a student without a teacher."""
    assert ask(Macs(max="10M"), with_artifact(report, macs=None))[0].outcome == "inconclusive"
    assert ask(Macs(max="9.8M"), with_artifact(report))[0].outcome == "pass"
    for budget in (Macs, Size, Parameters):
        found = ask(budget(max_ratio={"to": "baseline", "value": 1.0}), report)
        assert {f.outcome for f in found} == {"inconclusive"}
        same = ask(budget(max_ratio={"to": "baseline", "value": 1.0}), report, baseline=report)
        assert {(f.outcome, f.value) for f in same} == {("pass", 1.0)}
    (finding,) = ask(Parameters(max_ratio={"to": "teacher", "value": 1.0}), reports.bare_report())
    assert finding.outcome == "inconclusive"


# ---------------------------------------------------------------------------------------------------------------- parity
@pytest.mark.parametrize(("agreements", "outcome"), [(199, "pass"), (198, "fail"), (200, "pass")])
def test_parity_counts_images(report: Report, agreements: int, outcome: str) -> None:
    """99.5 % of 200 images are exactly 199."""
    parity = report.artifacts[0].parity.model_copy(update={"images": 200, "top1_agreements": agreements})
    (finding,) = ask(ParityLimit(min_counted="99.5%"), with_artifact(report, parity=parity))
    assert (finding.outcome, finding.value) == (outcome, pytest.approx(agreements / 2))


@pytest.mark.parametrize(
    "options", [{"min_counted": "0%"}, {"metric": "parity.max_abs", "max": 1e9}, {"metric": "parity.cosine"}]
)
def test_parity_with_nan_fails_whatever_agrees(report: Report, options: dict) -> None:
    """One NaN or infinity is a fail even with full agreement and any limit."""
    parity = report.artifacts[0].parity.model_copy(update={"non_finite": 1})
    found = ask(ParityLimit(**options), with_artifact(report, parity=parity))
    assert [f.outcome for f in found] == ["fail"]
    assert "NaN or infinity" in found[0].because


def test_parity_on_no_images_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """No images seen, or nothing exported, proves no agreement."""
    parity = report.artifacts[0].parity.model_copy(update={"images": 0, "top1_agreements": 0})
    assert [f.outcome for f in ask(ParityLimit(min_counted="0%"), with_artifact(report, parity=parity))] == ["inconclusive"]
    assert [f.outcome for f in ask(ParityLimit(min_counted="0%"), reports.bare_report())] == ["inconclusive"]


@pytest.mark.parametrize(("max_abs", "outcome"), [(0.5, "pass"), (0.25, "pass"), (0.2, "fail")])
def test_parity_can_limit_the_largest_difference(report: Report, max_abs: float, outcome: str) -> None:
    """The largest difference of a logit, exactly."""
    parity = report.artifacts[0].parity.model_copy(update={"max_abs": 0.25})
    (found,) = ask(ParityLimit(metric="parity.max_abs", max=max_abs), with_artifact(report, parity=parity))
    assert (found.budget, found.outcome, found.value, found.limit) == ("parity max abs", outcome, 0.25, max_abs)


def parity_of(report: Report, *, images: int, flips: int = 0, precision: str = "fp32", **options: object) -> Finding:
    """Return what a parity budget finds of one artifact with so many flips."""
    changes = {"images": images, "top1_agreements": images - flips, "logit_cosine_mean": 0.99995}
    parity = report.artifacts[0].parity.model_copy(update=changes)
    (finding,) = ask(ParityLimit(**options), with_artifact(report, parity=parity, precision=precision))
    return finding


@pytest.mark.parametrize(("precision", "images", "limit"), [("fp32", 2995, 99.9), ("fp16", 598, 99.5), ("int8", 149, 98.0)])
def test_parity_without_options_asks_what_the_precision_owes(report: Report, precision: str, images: int, limit: float) -> None:
    """The exact lower bound of the agreement; an image less is inconclusive, not a pass."""
    enough = parity_of(report, images=images, precision=precision)
    assert (enough.budget, enough.outcome, enough.limit) == ("parity proven", "pass", pytest.approx(limit))
    assert enough.value == pytest.approx(100 * 0.05 ** (1 / images))
    short = parity_of(report, images=images - 1, precision=precision)
    assert (short.outcome, short.needs) == ("inconclusive", f"{images:,} validation images")
    assert parity_of(report, images=9, precision=precision, metric="parity.cosine").outcome == "pass"


def test_parity_is_ruled_out_by_flips(report: Report) -> None:
    """20 flips of 300 leave no room for 98 %, so that more images would not help."""
    assert parity_of(report, images=300, flips=20, precision="int8").outcome == "fail"


def test_parity_limits_can_be_given_for_each_precision(report: Report) -> None:
    """One value for all, or one a precision; a precision that is not named is inconclusive."""
    asked = {"min": {"fp32": "99%", "int8": "90%"}}
    assert parity_of(report, images=299, **asked).outcome == "pass"
    assert parity_of(report, images=40, precision="int8", **asked).outcome == "pass"
    assert parity_of(report, images=299, precision="fp16", **asked).outcome == "inconclusive"
    cosine = {"images": 9, "metric": "parity.cosine"}
    assert parity_of(report, min=0.9, **cosine).outcome == "pass"
    assert parity_of(report, min={"fp32": 0.99999}, **cosine).outcome == "fail"
    assert parity_of(report, min={"int8": 0.9}, **cosine).outcome == "inconclusive"


def test_parity_of_an_unknown_precision_is_not_passed(report: Report) -> None:
    """A runtime that cannot say what it computed in proves nothing by agreeing."""
    changes = {"images": 5000, "top1_agreements": 5000}
    blind = with_artifact(report, parity=report.artifacts[0].parity.model_copy(update=changes), executed_precision="unknown")
    (finding,) = ask(ParityLimit(min="99%"), blind)
    assert finding.outcome == "inconclusive"
    assert "does not say what it computed in" in finding.because


@pytest.mark.parametrize(
    "options",
    [
        {"min": "100%"},
        {"min": 0.99},
        {"min": {"int7": "90%"}},
        {"metric": "parity.cosine", "min": 2.0},
        {"metric": "parity.cosine", "min": "99%"},
        {"metric": "parity.max_abs"},
        {"metric": "parity.max_abs", "max": -1.0},
        {"metric": "parity.max_abs", "max": float("inf")},
        {"min": "99%", "min_counted": "99%"},
    ],
)
def test_parity_refuses_limits_that_make_no_sense(options: dict) -> None:
    """No number of images proves 100 %, there is no precision int7, a share is no cosine, a distance is not negative."""
    with pytest.raises(ValidationError):
        ParityLimit(**options)
