"""Numbers and names in words."""

import re
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.records import MadeBy, Report
from edgekd.judging import wording
from edgekd.judging.budgets.size import Size
from edgekd.judging.stage import judge


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1, "100 %"),
        (0, "0 %"),
        (0.7125, "71.2 %"),
        (0.9996, "99.96 %"),
        (0.99999, "99.999 %"),
        (0.9999999, "> 99.999 %"),
        (0.00001, "0.001 %"),
        (1e-9, "< 0.001 %"),
    ],
)
def test_nothing_short_of_all_is_shown_as_all(share: float, shown: str) -> None:
    """A share is rounded, but never to 100 % or 0 % unless it is that."""
    assert wording.percent(share) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "ms", "\N{EN DASH}"),
        (0.1234, "ms", "0.123 ms"),
        (1.234, "ms", "1.23 ms"),
        (12.34, "ms", "12.3 ms"),
        (1234.5, "ms", "1,234 ms"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1.00 kB"),
        (6_142_880, "bytes", "6.14 MB"),
        (2.5e9, "bytes", "2.50 GB"),
        (12.08, "points", "+12.1 points"),
        (0, "points", "0 points"),
        (71.25, "%", "71.2 %"),
        (0.00123, "", "0.00123"),
        (3, "watts", "3 watts"),
    ],
)
def test_quantities_carry_their_unit(value: float | None, unit: str, shown: str) -> None:
    """Every number is shown with its unit and a sensible number of digits."""
    assert wording.quantity(value, unit) == shown


@given(st.text())
def test_plain_text_is_one_line_of_visible_characters(text: str) -> None:
    """Whatever goes in, no control, direction, surrogate or separator character comes out, and harmless text is untouched."""
    shown = wording.plain(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]", shown)
    assert len(shown.splitlines()) <= 1
    assert wording.plain(shown) == shown
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_the_headline_says_it_in_one_sentence(report: Report) -> None:
    """Student, accuracy with interval, gain over the baseline with interval, fastest artifact, and how the checks ended."""
    verdict = judge(report, [Size(max="4MB")], MadeBy(version="1"))
    assert wording.headline(report, verdict) == (
        "Student mobilenetv3_small_100: 71.2 % [65.2 to 76.6] top-1 on 240 images, +12.1 points [+5.5 to +18.5] against the "
        "baseline trained on the same labels for as many images; 0.933 ms p50 with openvino-fp32 on local; "
        "4 checks: 1 passed, 3 failed."
    )


def test_the_headline_claims_equal_training_only_where_it_was(report: Report) -> None:
    """A baseline that saw fewer images is not called trained for as many."""
    training = report.baseline.training.model_copy(update={"images_seen": 1})
    changed = report.model_copy(update={"baseline": report.baseline.model_copy(update={"training": training})})
    assert "as many images" not in wording.headline(changed, judge(changed, [], MadeBy(version="1")))


def test_the_headline_of_a_bare_report(reports: ModuleType) -> None:
    """Without baseline, artifacts and budgets the sentence says so."""
    bare = reports.bare_report()
    said = wording.headline(bare, judge(bare, [], MadeBy(version="1")))
    assert said == "Student mobilenetv3_small_100: 71.2 % top-1 on 240 images, no baseline to compare with; nothing was judged."


def test_the_fastest_is_trusted_and_known(report: Report) -> None:
    """An untrusted or withheld p50 is no headline, however small."""
    first, second, *_ = report.latencies
    cheat = first.model_copy(update={"p50_ms": 0.001, "trusted": False})
    unknown = first.model_copy(update={"p50_ms": None})
    assert wording.fastest(report.model_copy(update={"latencies": (cheat, unknown, second)})) == second
    assert wording.fastest(report.model_copy(update={"latencies": (cheat, unknown)})) is None


def test_counted_knows_one_from_many() -> None:
    """Nouns follow their number."""
    assert [wording.counted(n, "process", "processes") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert wording.counted(1200, "image") == "1,200 images"


def test_the_fastest_may_be_unsteady_but_never_void(report: Report) -> None:
    """An unsteady measurement can be the fastest and is called unsteady; a void one cannot."""
    slow, *others = report.latencies
    quick = others[-1].model_copy(update={"p50_ms": 0.1, "trusted": False, "blur": 1.5})
    changed = report.model_copy(update={"latencies": (slow, quick)})
    assert wording.fastest(changed) == quick
    assert wording.unsteady(quick) == " (unsteady)"
    void = quick.model_copy(update={"blur": None})
    assert wording.fastest(report.model_copy(update={"latencies": (slow, void)})) == slow
    assert wording.unsteady(slow) == ""
