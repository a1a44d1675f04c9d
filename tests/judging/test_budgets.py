"""What each budget decides, and that it decides nothing without evidence."""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekd.core import stats
from edgekd.core.records import LatencySummary, Report
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size


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
        ((19.0, 19.5, 20.0), "pass"),
        ((20.001, 21.0, 22.0), "fail"),
        ((19.0, 20.001, 19.0), "inconclusive"),
        ((20.0,), "pass"),
    ],
)
@pytest.mark.parametrize("percentile", ["p50", "p90"])
def test_latency_is_decided_by_every_process(report: Report, own_ms: tuple, outcome: str, percentile: str) -> None:
    """All processes at or below the limit pass, all above fail, straddling is inconclusive; the limit itself is allowed."""
    changed = with_latency(report, **{f"worker_{percentile}_ms": own_ms, f"{percentile}_ms": 19.7})
    (finding,) = Latency(max="20ms", percentile=percentile).check(changed)
    assert (finding.outcome, finding.value, finding.limit, finding.unit) == (outcome, 19.7, 20.0, "ms")
    assert finding.budget == f"latency {percentile}"
    assert finding.subject == "torch-fp32@local"


def test_latency_compares_the_two_percentiles_apart(report: Report) -> None:
    """A p90 above the limit does not fail a p50 budget, and the other way round."""
    changed = with_latency(report, worker_p50_ms=(1.0,), worker_p90_ms=(9.0,))
    assert Latency(max="5ms").check(changed)[0].outcome == "pass"
    assert Latency(max="5ms", percentile="p90").check(changed)[0].outcome == "fail"


@pytest.mark.parametrize(
    ("text", "exact_ns"), [("800us", 800_000), ("0.8ms", 800_000), ("1.3ms", 1_300_000), ("333333ns", 333_333)]
)
def test_latency_exactly_at_the_limit_passes(report: Report, text: str, exact_ns: int) -> None:
    """A time of exactly the limit passes and one nanosecond more fails, whatever the unit."""
    at, above = (with_latency(report, worker_p50_ms=(ns / 1e6,)) for ns in (exact_ns, exact_ns + 1))
    assert Latency(max=text).check(at)[0].outcome == "pass"
    assert Latency(max=text).check(above)[0].outcome == "fail"


def test_latency_that_cannot_be_trusted_is_inconclusive(report: Report) -> None:
    """An untrusted measurement neither passes nor fails, and the reason is repeated."""
    changed = with_latency(report, trusted=False, untrusted_because=("unstable: from 1 to 9 ms",), worker_p50_ms=(0.1,))
    (finding,) = Latency(max="20ms").check(changed)
    assert finding.outcome == "inconclusive"
    assert "unstable: from 1 to 9 ms" in finding.because


@pytest.mark.parametrize(
    ("limit", "outcome"), [("9.1ms", "pass"), ("8.9ms", "inconclusive"), ("0.34ms", "inconclusive"), ("0.32ms", "fail")]
)
def test_an_unsteady_measurement_decides_limits_beyond_its_blur(report: Report, limit: str, outcome: str) -> None:
    """Processes of 1 to 3 ms, misleading by up to 3: within 9 ms for sure, above 0.33 ms for sure, and open between."""
    changed = with_latency(
        report, trusted=False, untrusted_because=("unstable: from 1 to 3 ms",), worker_p50_ms=(1.0, 3.0), blur=3.0
    )
    (finding,) = Latency(max=limit).check(changed)
    assert finding.outcome == outcome
    assert "by a factor of 3.00, which was allowed for: unstable: from 1 to 3 ms" in finding.because


def test_latency_with_too_few_samples_says_how_many_are_needed(report: Report, reports: ModuleType) -> None:
    """A withheld percentile is inconclusive and names the floor and what there is."""
    few = reports.summary(report.artifacts[0], workers=3, iterations=20)
    changed = report.model_copy(update={"artifacts": report.artifacts[:1], "latencies": (few,)})
    assert few.p90_ms is None
    (finding,) = Latency(max="20ms", percentile="p90").check(changed)
    assert finding.outcome == "inconclusive"
    assert finding.value is None
    assert "needs 64 in each process" in finding.because
    assert "there are 60" in finding.because


def test_latency_with_one_short_process_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """Enough samples together are not enough in each process: the replicate is the process."""
    summary = reports.summary(report.artifacts[0], workers=3, iterations=40)
    changed = report.model_copy(update={"artifacts": report.artifacts[:1], "latencies": (summary,)})
    assert summary.p90_ms is not None
    assert summary.worker_p90_ms == ()
    (finding,) = Latency(max="20ms", percentile="p90").check(changed)
    assert finding.outcome == "inconclusive"
    assert "the smallest has 40" in finding.because
    assert Latency(max="20ms", percentile="p50").check(changed)[0].outcome == "pass"


def test_latency_without_measurement_is_inconclusive_for_each_artifact(report: Report) -> None:
    """An artifact that nobody timed is unknown, also when others were timed."""
    changed = report.model_copy(update={"latencies": report.latencies[:1]})
    found = Latency(max="20ms").check(changed)
    assert [f.outcome for f in found] == ["pass", *["inconclusive"] * 3]
    assert "was not measured; run edgekd bench" in found[1].because


def test_latency_filters_by_artifact_and_device(report: Report) -> None:
    """Shell patterns choose artifacts and devices; a pattern that matches nothing is inconclusive, not passed."""
    assert [f.subject for f in Latency(max="20ms", artifact="openvino-*").check(report)] == [
        "openvino-fp32@local",
        "openvino-fp16@local",
    ]
    (none,) = Latency(max="20ms", artifact="tensorrt-*").check(report)
    assert none.outcome == "inconclusive"
    assert "torch-fp32, onnxruntime-fp32" in none.because
    found = Latency(max="20ms", artifact="torch-fp32", device="pi5*").check(report)
    assert [(f.outcome, f.subject) for f in found] == [("inconclusive", "torch-fp32@pi5*")]
    assert "'pi5*'" in found[0].because


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=6), st.integers(1, 10**8), st.integers(0, 10**7), st.floats(1, 5))
def test_a_faster_measurement_never_turns_a_pass_into_a_fail(own_ns: list, limit_ns: int, faster_ns: int, blur: float) -> None:
    """Taking the same time off every process can only help, steady or not."""
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    budget = Latency(max=f"{limit_ns}ns")
    before, _ = budget._decide(tuple(ns / 1e6 for ns in own_ns), blur)
    after, _ = budget._decide(tuple(max(0, ns - faster_ns) / 1e6 for ns in own_ns), blur)
    assert rank[after] >= rank[before]


# -------------------------------------------------------------------------------------------------------------- accuracy
def test_accuracy_is_decided_by_the_wilson_bound(report: Report, reports: ModuleType) -> None:
    """71.2 % of 240 has the interval 65.2 to 76.6 %: 65 % is proven, 77 % is refuted, 70 % and 71 % are open."""
    for limit, outcome in (("65%", "pass"), ("77%", "fail"), ("70%", "inconclusive"), ("71%", "inconclusive")):
        (finding,) = AccuracyLimit(min=limit, of="student").check(report)
        assert (finding.outcome, finding.value, finding.unit) == (outcome, 71.25, "%"), limit


def test_accuracy_that_is_open_says_how_many_images_decide(report: Report) -> None:
    """At 71.25 % against 70 %, z^2 * 0.7 * 0.3 / 0.0125^2 = 5,162.9 images."""
    (finding,) = AccuracyLimit(min="70%", of="student").check(report)
    assert "5,163 images would decide it" in finding.because


def test_accuracy_exactly_at_the_limit_says_that_nothing_decides(report: Report, reports: ModuleType) -> None:
    """A rate of exactly the limit stays open whatever the number of images."""
    changed = report.model_copy(update={"student": report.student.model_copy(update={"accuracy": reports.accuracy(120)})})
    (finding,) = AccuracyLimit(min="50%", of="student").check(changed)
    assert finding.outcome == "inconclusive"
    assert "no number decides it" in finding.because


def test_accuracy_is_of_every_artifact_or_of_the_student(report: Report, reports: ModuleType) -> None:
    """By default each artifact is judged; the student only if nothing was exported or it is asked for."""
    names = [artifact.name for artifact in report.artifacts]
    assert [f.subject for f in AccuracyLimit(min="60%").check(report)] == names
    assert [f.subject for f in AccuracyLimit(min="60%", of="*-fp16").check(report)] == ["openvino-fp16"]
    assert [f.subject for f in AccuracyLimit(min="60%", of="student").check(report)] == ["student"]
    assert [f.subject for f in AccuracyLimit(min="60%").check(reports.bare_report())] == ["student"]


def test_accuracy_of_an_artifact_that_is_not_there_is_inconclusive(report: Report) -> None:
    """A pattern that matches no artifact passes nothing."""
    (finding,) = AccuracyLimit(min="1%", of="tensorrt*").check(report)
    assert (finding.outcome, finding.value) == ("inconclusive", None)


def test_accuracy_on_no_images_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """An artifact that was never tried is unknown."""
    nothing = reports.accuracy(0).model_copy(update={"images": 0})
    (finding,) = AccuracyLimit(min="60%").check(with_artifact(report, accuracy=nothing))
    assert finding.outcome == "inconclusive"


@pytest.mark.parametrize(
    ("student", "baseline", "outcome"),
    [
        (48, 19, "pass"),
        (19, 48, "fail"),
        (5, 0, "pass"),
        (4, 0, "inconclusive"),
        (5, 4, "inconclusive"),
        (4, 5, "inconclusive"),
        (0, 0, "inconclusive"),
    ],
)
def test_beating_the_baseline_is_a_one_sided_mcnemar_test(
    report: Report, reports: ModuleType, student: int, baseline: int, outcome: str
) -> None:
    """Five discordant images all for the student give p = 1/32, four give 1/16: the line of 5 % runs between them."""
    changed = report.model_copy(update={"comparison": reports.comparison(only_student=student, only_baseline=baseline)})
    (finding,) = AccuracyLimit(beat_baseline=True).check(changed)
    assert finding.outcome == outcome
    assert finding.subject == "student"
    assert finding.value == pytest.approx(100 * (student - baseline) / 240)


def test_beating_no_baseline_is_inconclusive(reports: ModuleType) -> None:
    """Without a baseline nobody knows."""
    (finding,) = AccuracyLimit(beat_baseline=True).check(reports.bare_report())
    assert finding.outcome == "inconclusive"


def test_accuracy_can_ask_both(report: Report) -> None:
    """A floor and the baseline are two findings."""
    found = AccuracyLimit(min="60%", of="student", beat_baseline=True).check(report)
    assert [f.budget for f in found] == ["accuracy", "accuracy over baseline"]


def test_accuracy_must_ask_something() -> None:
    """A budget without a limit is refused with what to give."""
    with pytest.raises(ValidationError, match="min: 70%"):
        AccuracyLimit()


@given(st.integers(1, 2000), st.integers(1, 99), st.data())
def test_the_accuracy_floor_agrees_with_the_interval(images: int, limit: int, data: st.DataObject) -> None:
    """Pass exactly if the whole interval is at or above the limit, fail exactly if it is all below."""
    from edgekd.judging.budgets.accuracy import _judged

    correct = data.draw(st.integers(0, images))
    interval = stats.wilson(correct, images)
    accuracy = _Counts(images=images, top1_correct=correct)
    outcome = _judged("x", accuracy, f"{limit}%").outcome
    assert (outcome == "pass") == (interval.low >= limit / 100)
    assert (outcome == "fail") == (interval.high < limit / 100)


class _Counts:
    def __init__(self, *, images: int, top1_correct: int) -> None:
        self.images = images
        self.top1_correct = top1_correct


# ------------------------------------------------------------------------------------------------------------------ size
@pytest.mark.parametrize(("size_bytes", "outcome"), [(12_000_000, "pass"), (12_000_001, "fail")])
def test_size_is_exact(report: Report, size_bytes: int, outcome: str) -> None:
    """12 MB are 12,000,000 bytes and not one more."""
    (finding,) = Size(max="12MB").check(with_artifact(report, size_bytes=size_bytes))
    assert (finding.outcome, finding.value, finding.limit) == (outcome, size_bytes, 12e6)


def test_size_filters_and_needs_an_artifact(report: Report, reports: ModuleType) -> None:
    """A pattern chooses artifacts; nothing exported is inconclusive."""
    assert [f.subject for f in Size(max="1GB", artifact="openvino-*").check(report)] == ["openvino-fp32", "openvino-fp16"]
    (finding,) = Size(max="1GB").check(reports.bare_report())
    assert (finding.outcome, finding.value) == ("inconclusive", None)
    assert "Nothing was exported" in finding.because


# ---------------------------------------------------------------------------------------------------------------- parity
@pytest.mark.parametrize(("agreements", "outcome"), [(199, "pass"), (198, "fail"), (200, "pass")])
def test_parity_counts_images(report: Report, agreements: int, outcome: str) -> None:
    """99.5 % of 200 images are exactly 199."""
    parity = report.artifacts[0].parity.model_copy(update={"images": 200, "top1_agreements": agreements})
    (finding,) = ParityLimit(min_agreement="99.5%").check(with_artifact(report, parity=parity))
    assert (finding.outcome, finding.value) == (outcome, pytest.approx(agreements / 2))


def test_parity_with_nan_fails_whatever_agrees(report: Report) -> None:
    """One NaN or infinity is a fail even with full agreement and no other limit."""
    parity = report.artifacts[0].parity.model_copy(update={"non_finite": 1})
    found = ParityLimit(min_agreement="0%", max_abs=1e9).check(with_artifact(report, parity=parity))
    assert [f.outcome for f in found] == ["fail"]
    assert "NaN or infinity" in found[0].because


def test_parity_on_no_images_is_inconclusive(report: Report, reports: ModuleType) -> None:
    """No images seen, or nothing exported, proves no agreement."""
    parity = report.artifacts[0].parity.model_copy(update={"images": 0, "top1_agreements": 0})
    assert [f.outcome for f in ParityLimit(min_agreement="0%").check(with_artifact(report, parity=parity))] == ["inconclusive"]
    assert [f.outcome for f in ParityLimit(min_agreement="0%").check(reports.bare_report())] == ["inconclusive"]


@pytest.mark.parametrize(("max_abs", "outcome"), [(0.5, "pass"), (0.25, "pass"), (0.2, "fail")])
def test_parity_can_limit_the_largest_difference(report: Report, max_abs: float, outcome: str) -> None:
    """`max_abs` adds a finding of its own."""
    parity = report.artifacts[0].parity.model_copy(update={"max_abs": 0.25})
    first, second = ParityLimit(min_agreement="99%", max_abs=max_abs).check(with_artifact(report, parity=parity))
    assert first.outcome == "pass"
    assert (second.budget, second.outcome, second.value, second.limit) == ("parity max abs", outcome, 0.25, max_abs)


@pytest.mark.parametrize("max_abs", [-1.0, float("nan"), float("inf")])
def test_parity_refuses_an_impossible_distance(max_abs: float) -> None:
    """A negative or infinite limit is a mistake."""
    with pytest.raises(ValidationError):
        ParityLimit(min_agreement="99%", max_abs=max_abs)


def proven(report: Report, *, images: int, flips: int = 0, precision: str = "fp32", **options: object) -> list[tuple]:
    """Return (budget, outcome, value, limit) of a parity budget over one artifact with so many flips."""
    changes = {"images": images, "top1_agreements": images - flips, "logit_cosine_mean": 0.99995}
    parity = report.artifacts[0].parity.model_copy(update=changes)
    changed = with_artifact(report, parity=parity, precision=precision)
    return [(f.budget, f.outcome, f.value, f.limit) for f in ParityLimit(**options).check(changed)]


@pytest.mark.parametrize(("precision", "images", "limit"), [("fp32", 2995, 99.9), ("fp16", 598, 99.5), ("int8", 149, 98.0)])
def test_parity_without_options_asks_what_the_precision_owes(report: Report, precision: str, images: int, limit: float) -> None:
    """The exact lower bound of the agreement and the mean cosine; an image less is inconclusive, not a pass."""
    enough, cosine = proven(report, images=images, precision=precision)
    assert (enough[:2], enough[3]) == (("parity proven", "pass"), pytest.approx(limit))
    assert enough[2] == pytest.approx(100 * 0.05 ** (1 / images))
    assert cosine[:3] == ("parity cosine", "pass", 0.99995)
    assert [found[1] for found in proven(report, images=images - 1, precision=precision)] == ["inconclusive", "pass"]


def test_parity_is_ruled_out_by_flips(report: Report) -> None:
    """20 flips of 300 leave no room for 98 %, so that more images would not help."""
    assert proven(report, images=300, flips=20, precision="int8")[0][1] == "fail"


def test_parity_limits_can_be_given_for_each_precision(report: Report) -> None:
    """One value for all, or one a precision; a precision that is not named is inconclusive."""
    asked = {"min_proven": {"fp32": "99%", "int8": "90%"}}
    assert [f[1:2] for f in proven(report, images=299, **asked)] == [("pass",)]
    assert [f[1:2] for f in proven(report, images=40, precision="int8", **asked)] == [("pass",)]
    assert [f[1:2] for f in proven(report, images=299, precision="fp16", **asked)] == [("inconclusive",)]
    assert [f[:2] for f in proven(report, images=9, min_cosine=0.9)] == [("parity cosine", "pass")]
    assert [f[:2] for f in proven(report, images=9, min_cosine={"fp32": 0.99999})] == [("parity cosine", "fail")]
    assert [f[:2] for f in proven(report, images=9, min_cosine={"int8": 0.9})] == [("parity cosine", "inconclusive")]


def test_parity_as_counted_asks_no_proof(report: Report) -> None:
    """`min_agreement` alone is the share of these images, as it was written."""
    assert proven(report, images=10, min_agreement="99%") == [("parity", "pass", 100.0, 99.0)]


def test_parity_of_an_unknown_precision_is_not_passed(report: Report) -> None:
    """A runtime that cannot say what it computed in proves nothing by agreeing."""
    changes = {"images": 5000, "top1_agreements": 5000}
    blind = with_artifact(report, parity=report.artifacts[0].parity.model_copy(update=changes), executed_precision="unknown")
    (finding,) = ParityLimit(min_proven="99%").check(blind)
    assert finding.outcome == "inconclusive"
    assert "does not say what it computed in" in finding.because


@pytest.mark.parametrize("options", [{"min_proven": "100%"}, {"min_proven": {"int7": "90%"}}, {"min_cosine": 2.0}])
def test_parity_refuses_limits_that_nothing_can_reach(options: dict) -> None:
    """No number of images proves 100 %, and there is no precision int7."""
    with pytest.raises(ValidationError):
        ParityLimit(**options)


def test_summaries_are_what_the_budget_reads(report: Report) -> None:
    """The fixture's summaries carry both percentiles for every process, so the tests above start from a decided case."""
    for summary in report.latencies:
        assert isinstance(summary, LatencySummary)
        assert len(summary.worker_p50_ms) == len(summary.worker_p90_ms) == 7
