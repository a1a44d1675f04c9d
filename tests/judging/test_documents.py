"""HTML, Markdown and JUnit: the same bytes for the same report, complete, and deaf to what names say."""

import base64
import hashlib
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt

from edgekd.core.contracts import Budget
from edgekd.core.records import MadeBy, Report, Verdict
from edgekd.judging import wording
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size
from edgekd.judging.formats import _page, _plots
from edgekd.judging.formats._drawing import svg
from edgekd.judging.formats.html import Html
from edgekd.judging.formats.junit import Junit
from edgekd.judging.formats.markdown import Markdown, code, prose
from edgekd.judging.stage import judge

BUDGETS: tuple[Budget, ...] = (
    AccuracyLimit(min="60%"),
    AccuracyLimit(min_gain={"to": "undistilled"}, of="student"),
    ParityLimit(min_counted="99.9%"),
    ParityLimit(metric="parity.max_abs", max=0.01),
    Size(max="4MB"),
    Latency(max="0.93ms", artifact="openvino-fp32"),
    Latency(max="5ms", artifact="tensorrt-fp16"),
)


def judged(report: Report) -> Verdict:
    """Return the verdict of the budgets above, in which every outcome but error occurs."""
    return judge(report, BUDGETS, MadeBy(version="1"))


class Structure(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note a tag."""
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


# ------------------------------------------------------------------------------------------------------------------ html
def test_the_page_is_the_same_bytes_in_another_process(report: Report, tmp_path: Path) -> None:
    """Neither the process, nor its hash seed, nor somebody's matplotlib settings change the page."""
    import matplotlib as mpl

    here = tmp_path / "report.json"
    here.write_text(report.to_json())
    program = """
import sys
from pathlib import Path
import matplotlib as mpl
mpl.rcParams.update({"font.size": 30, "axes.labelpad": 40, "axes.titlepad": 40})
from edgekd.core.records import Report, Verdict
from edgekd.judging.formats.html import Html
report = Report.from_json(Path(sys.argv[1]).read_bytes())
verdict = Verdict.from_json(Path(sys.argv[2]).read_bytes())
sys.stdout.buffer.write(Html().render(report, verdict).encode())
"""
    verdict = judged(report)
    (tmp_path / "verdict.json").write_text(verdict.to_json())
    argv = [sys.executable, "-c", program, str(here), str(tmp_path / "verdict.json")]
    other = subprocess.run(argv, capture_output=True, check=True, env={"PYTHONHASHSEED": "123", "MPLCONFIGDIR": str(tmp_path)})
    size_before = mpl.rcParams["font.size"]
    assert Html().render(report, verdict).encode() == other.stdout
    assert mpl.rcParams["font.size"] == size_before


def test_the_page_is_self_contained(report: Report) -> None:
    """No script, no link, no request: the policy forbids it and nothing asks for it."""
    page = Html().render(report, judged(report))
    found = Structure(page)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in found.tags}
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [
        dict(attrs)["content"]
        for tag, attrs in found.tags
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs
    ]
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"style-src-elem 'sha256-{digest}'",
        "style-src-attr 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert all(href.startswith("#") for tag, attrs in found.tags for name, href in attrs if name == "href")
    assert not re.search(r"https?://|url\((?!#)|@import", page)
    assert all(not name.startswith("on") for _, attrs in found.tags for name, _ in attrs)
    ids = [value for _, attrs in found.tags for name, value in attrs if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_serves_light_dark_phone_and_paper(report: Report) -> None:
    """One page for all: colours by variables, and rules for the dark, for narrow screens and for print."""
    page = Html().render(report, judged(report))
    for rule in ("prefers-color-scheme: dark", "max-width: 760px", "@media print", 'name="viewport"'):
        assert rule in page
    assert not re.search(r"#0[1-6]0\d0\d|DejaVu", page), "a stand-in colour or font of the drawings was left"


def test_the_page_shows_every_fact(report: Report) -> None:
    """The facts that a colleague asks for are on the page."""
    text = Structure(Html().render(report, judged(report))).text.replace("\N{NO-BREAK SPACE}", " ")
    student, teacher = report.student, report.student.teachers[0]
    for fact in (
        wording.headline(report, judged(report)),
        *(f.because for f in judged(report).findings),
        "openvino-fp16",
        "239 of 240",
        "1 of 240 flipped",
        "6,142,880 B",
        "8.6e-06",
        "val/ketch/image_0007.jpg",
        "train/ketch/image_0031.jpg",
        "truncated: 1,204 of 18,220 bytes",
        "busy: load average 4.20",
        "Intel(R) Xeon(R) Platinum 8375C",
        "2 usable (quota 2) of 4 physical, 8 logical",
        "batch 1, 2 threads",
        "20 in each process",
        "linear probe 94.6 %, kNN 91.2 %",
        "resize the short side to 110 px (bicubic), crop the centre",
        "inside the graph, not by the caller",
        "600 for training, 100 of them labelled; 240 for validation",
        "90,240 images seen in 1,410 steps",
        teacher.weights_sha256,
        student.data.digest,
        student.digest(),
        report.digest(),
        judged(report).digest(),
        *report.from_.values(),
        "edgekd run recipes/quickstart.yaml",
        "a0be8a0 (clean)",
    ):
        assert fact in text, fact


def test_what_did_not_pass_stands_first(report: Report) -> None:
    """Failures come before what is open, and that before what passed."""
    page = _page.Page(report, judged(report))
    assert list(dict.fromkeys(f.outcome for f in page.findings)) == ["fail", "inconclusive", "pass"]


def test_hostile_names_change_no_tag_and_no_attribute(reports: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever classes, files, devices and recipes are called, the page has the very same elements and attributes."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # for speed: the next test shows that no drawing holds a name
    benign = reports.report()
    expected = Structure(Html().render(benign, judged(benign))).tags
    for name in reports.HOSTILE:
        hostile = reports.report(hostile=name)
        page = Html().render(hostile, judged(hostile))
        found = Structure(page)
        assert found.tags == expected, name
        shown = wording.plain(f"ketch{name}")
        assert found.text.replace("\N{NO-BREAK SPACE}", " ").count(shown.replace("\N{NO-BREAK SPACE}", " ")) >= 2, name
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page), name
        page.encode()


def test_no_drawing_holds_a_name(reports: ModuleType) -> None:
    """The drawings of a report are the same whatever its things are called."""
    drawn = (_plots.accuracy_curves, _plots.loss_curves, _plots.accuracy_against_latency, _plots.latency_distribution)
    benign, hostile = reports.report(), reports.report(hostile=" ".join(reports.HOSTILE))
    assert [svg(draw(benign)) for draw in drawn] == [svg(draw(hostile)) for draw in drawn]


def test_without_matplotlib_the_page_says_so(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is made all the same, without plots, and says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Html().render(report, judged(report))
    assert "<svg" not in page
    assert "pip install &#39;edgekd[report]&#39;" in page or "pip install 'edgekd[report]'" in page
    assert wording.headline(report, judged(report)) in Structure(page).text.replace("\N{NO-BREAK SPACE}", " ")


def test_with_matplotlib_there_are_four_plots(report: Report) -> None:
    """Learning curves, losses, accuracy against latency, latency distribution; each named for those who cannot see it."""
    page = Html().render(report, judged(report))
    assert page.count("<svg ") == page.count("</svg>") == 4
    assert page.count('role="img" aria-label=') == 4
    assert "pip install" not in page


def test_a_bare_report_makes_a_page(reports: ModuleType) -> None:
    """Without baseline, teacher, artifacts, measurements and budgets the page says that they are not there."""
    bare = reports.bare_report()
    page = Html().render(bare, judge(bare, [], MadeBy(version="1")))
    for sentence in (
        wording.NO_BUDGETS,
        "There is no baseline",
        "Nothing was exported",
        "Nothing was measured",
        "had no teacher",
    ):
        assert sentence in Structure(page).text
    assert "<svg" not in page


def test_a_report_full_of_gaps_makes_a_page(report: Report) -> None:
    """Unknown device facts, untrusted and withheld measurements, NaN, long lists: nothing breaks, everything is said."""
    unknown = {"cpu": None, "logical_cores": None, "physical_cores": None, "cgroup_quota_cores": None, "memory_bytes": None}
    device = report.latencies[0].device.model_copy(
        update={**unknown, "load_1min": None, "container": None, "governor": "powersave"}
    )
    gone = {"p50_ms": None, "p90_ms": None, "worker_p50_ms": (), "curve_ms": (), "load_ms": (), "first_ms": ()}
    bad = report.latencies[0].model_copy(
        update={
            **gone,
            "device": device,
            "trusted": False,
            "untrusted_because": ("few",),
            "flags": ("few",),
            "withheld": ("p50",),
        }
    )
    weak = report.latencies[1].model_copy(update={"trusted": False, "untrusted_because": ("drift",), "worker_p50_ms": ()})
    again = report.latencies[1].model_copy(update={"batch": 8})
    artifact = report.artifacts[3]
    many = artifact.parity.flips * 150
    broken = artifact.model_copy(
        update={
            "parity": artifact.parity.model_copy(update={"images": 0, "non_finite": 3, "flips": many}),
            "accuracy": artifact.accuracy.model_copy(update={"images": 0}),
            "opset": None,
        }
    )
    data = report.student.data
    student = report.student.model_copy(
        update={
            "data": data.model_copy(update={"quarantined": data.quarantined * 60, "classes": data.classes * 3}),
            "input": report.student.input.model_copy(update={"crop": "squash", "normalisation_inside": False}),
            "probe_top1": None,
            "teachers": (report.student.teachers[0].model_copy(update={"probe_top1": None, "knn_top1": None}),),
            "accuracy": report.student.accuracy.model_copy(update={"top5_correct": None}),
        }
    )
    gaps = report.model_copy(
        update={
            "latencies": (bad, weak, again),
            "artifacts": (*report.artifacts[:2], broken),
            "student": student,
            "baseline": None,
        }
    )
    page = Html().render(gaps, judge(gaps, [], MadeBy(version="1", git="", at="")))
    text = Structure(page).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "not trusted: few",
        "withheld: p50",
        "3 NaN or infinite",
        "150 flips",
        "and 50 more, all in report.json",
        "120 images left out",
        "and 20 more, all in report.json",
        "of unknown physical, unknown logical",
        "resize both sides",
        "by the caller",
        "powersave",
        "not measured",
        "30: butterfly",
        "…",
    ):
        assert said in text, said
    Markdown().render(gaps, judge(gaps, [], MadeBy(version="1")))


@pytest.mark.parametrize(
    ("value", "limit", "unit", "expected"),
    [
        (71.2, 60.0, "%", (0, 71.2, 60.0)),
        (8.0, 10.0, "ms", (0, 64.0, 80.0)),
        (20.0, 10.0, "ms", (0, 80.0, 40.0)),
        (-10.0, 0.0, "points", (20.0, 80.0, 100.0)),
        (10.0, 0.0, "points", (0, 80.0, 0.0)),
    ],
)
def test_bars_stand_where_the_numbers_are(report: Report, value: float, limit: float, unit: str, expected: tuple) -> None:
    """Percentages run from 0 to 100, everything else from 0 to a quarter beyond the larger of both."""
    finding = judged(report).findings[0].model_copy(update={"value": value, "limit": limit, "unit": unit})
    bar = _page.Page(report, judged(report)).bar(finding)
    assert (bar.start, bar.length, bar.limit) == pytest.approx(expected)


def test_a_finding_without_value_or_scale_has_no_bar(report: Report) -> None:
    """Nothing is drawn for what is unknown, or for zero against zero."""
    page, finding = _page.Page(report, judged(report)), judged(report).findings[0]
    assert page.bar(finding.model_copy(update={"value": None})) is None
    assert page.bar(finding.model_copy(update={"value": 0.0, "limit": 0.0, "unit": "points"})) is None


def test_whiskers_stand_where_the_intervals_are(report: Report) -> None:
    """Student 65.2 to 76.6, baseline 52.9 to 65.2, teacher 94.58 on an axis from 50 to 100 %, worked out by hand."""
    scale = _page.Page(report, judged(report)).accuracy_scale()
    assert [label for _, label in scale.ticks] == ["50 %", "60 %", "70 %", "80 %", "90 %", "100 %"]
    assert [at for at, _ in scale.ticks] == [0, 20, 40, 60, 80, 100]
    student, baseline, teacher = scale.whiskers
    assert student.dot == pytest.approx((71.25 - 50) * 2)
    assert student.start == pytest.approx((100 * report.comparison.student_top1.low - 50) * 2, abs=0.01)
    assert baseline.start + baseline.length == pytest.approx((100 * report.comparison.baseline_top1.high - 50) * 2, abs=0.01)
    assert (teacher.dot, teacher.start) == (pytest.approx((94.58 - 50) * 2), None)


def test_the_difference_is_drawn_against_zero(report: Report) -> None:
    """The axis of the difference always shows zero; here it runs from 0 to +20 points."""
    scale = _page.Page(report, judged(report)).difference_scale()
    assert (scale.zero, [label for _, label in scale.ticks]) == (0, ["0", "+5", "+10", "+15", "+20"])
    assert scale.whiskers[0].dot == pytest.approx(100 * (29 / 240) / 0.2, abs=0.01)


def test_without_a_comparison_there_is_no_scale(reports: ModuleType) -> None:
    """Nothing is drawn of what was not compared."""
    bare = reports.bare_report()
    page = _page.Page(bare, judge(bare, [], MadeBy(version="1")))
    assert (page.accuracy_scale(), page.difference_scale()) == (None, None)


def test_plots_of_nothing_are_empty(reports: ModuleType) -> None:
    """A plot without points is left out."""
    bare = reports.bare_report()
    drawn = (_plots.accuracy_curves, _plots.loss_curves, _plots.accuracy_against_latency, _plots.latency_distribution)
    assert [svg(draw(bare)) for draw in drawn] == ["", "", "", ""]


def test_artifacts_keep_their_colour(report: Report) -> None:
    """An artifact has the same series in every plot and table, and a seventh starts over."""
    assert [_plots.series(report, a.name) for a in report.artifacts] == [0, 1, 2, 3]
    seven = report.model_copy(
        update={"artifacts": tuple(report.artifacts[0].model_copy(update={"precision": f"p{i}"}) for i in range(7))}
    )
    assert _plots.series(seven, "torch-p6") == 0
    drawing = svg(_plots.latency_distribution(report))
    assert all(f"var(--s{i})" in drawing for i in range(4))
    assert "var(--s4)" not in drawing


def test_losses_that_reach_zero_and_wide_spans_are_drawn(report: Report) -> None:
    """A loss of zero has no logarithm, and a span of many decades is labelled at powers of ten only."""
    zero = report.model_copy(update={"student_curve": tuple(p.model_copy(update={"loss": 0.0}) for p in report.student_curve)})
    assert "<path" in svg(_plots.loss_curves(zero))
    wide = tuple(p.model_copy(update={"loss": 10.0**-i}) for i, p in enumerate(report.student_curve[:6]))
    labels = re.findall(
        r">([^<>]+)</text>", svg(_plots.loss_curves(report.model_copy(update={"student_curve": wide, "baseline_curve": ()})))
    )
    assert {"0.0001", "0.01"} <= set(labels)
    assert not {"0.02", "0.05", "0.0005"} & set(labels)


def test_artifacts_compared_on_no_image_have_no_parity_figure(report: Report) -> None:
    """Parity is no headline if no image was compared."""
    blind = report.artifacts[0].model_copy(update={"parity": report.artifacts[0].parity.model_copy(update={"images": 0})})
    labels = [tile.label for tile in _page.Page(report.model_copy(update={"artifacts": (blind,)}), judged(report)).tiles()]
    assert labels == ["Student top-1", "Points over baseline", "Fastest p50", "Smallest artifact"]


# -------------------------------------------------------------------------------------------------------------- markdown
def rendered(document: str) -> Structure:
    """Return the document as a strict reader of GitHub's dialect shows it."""
    return Structure(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(document))


def test_the_document_is_the_golden_one(report: Report) -> None:
    """Verdict, comparison, artifacts, latency, ingredients: everything before the digests."""
    golden = (Path(__file__).parents[1] / "golden" / "report.md").read_text()
    assert Markdown().render(report, judged(report)).partition("## Provenance")[0] == golden


def test_every_table_is_a_table(report: Report) -> None:
    """Findings, comparison, artifacts, flips, latency, quarantine and digests are read as seven tables with full rows."""
    found = rendered(Markdown().render(report, judged(report)))
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") == 7
    assert set(tags) <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "ul", "li"}
    for digest in (report.digest(), judged(report).digest(), *report.from_.values()):
        assert digest in found.text


def test_hostile_names_change_no_markup(reports: ModuleType) -> None:
    """Names add no tag, no cell, no link, no mention; they are shown as they are."""
    benign = reports.report()
    expected = rendered(Markdown().render(benign, judged(benign)))
    for name in reports.HOSTILE:
        hostile = reports.report(hostile=name)
        document = Markdown().render(hostile, judged(hostile))
        found = rendered(document)
        assert without_code(found.tags) == without_code(expected.tags), name
        assert f"ketch{wording.plain(name)}" in found.text.replace("\u200b", ""), name
        document.encode()


def without_code(tags: list) -> list:
    """Return tags but not `code`, which a name gets or not depending on its characters."""
    return [tag for tag in tags if tag[0] != "code"]


@pytest.mark.parametrize("text", ["@mention", "see #12", "https://evil.example", "WWW.evil.example", "a@b.example", "HTTP://x"])
def test_nobody_is_mentioned_and_nothing_is_linked(text: str) -> None:
    """Where code hosts look for mentions, issues, addresses and links, an invisible break stands in between."""
    shown = rendered(prose(text)).text.strip()
    assert shown.replace("\u200b", "") == text
    assert not re.search(r"@\w|#\d|://|www\.", shown, re.IGNORECASE)


@pytest.mark.parametrize("text", ["plain", "val/x_1.jpg", "a@b", "", " edge ", "back`tick", "pi|pe", "<b>"])
def test_code_shows_exactly_its_text(text: str) -> None:
    """Code stays code, whatever stands in it."""
    page = MarkdownIt("commonmark").enable("table").render(f"| h |\n| --- |\n| {code(text)} | ")
    (inside,) = re.findall(r"<td><code>(.*)</code></td>", page)
    assert unescape(inside).replace("\u200b", "") == text


def test_a_bare_report_makes_a_document(reports: ModuleType) -> None:
    """What is not there has no section, and no budgets are said in words."""
    bare = reports.bare_report()
    document = Markdown().render(bare, judge(bare, [], MadeBy(version="1")))
    assert re.findall(r"^## (.*)$", document, re.MULTILINE) == ["Verdict", "Teacher and data", "Provenance"]
    assert "unknown is not passed" in document


def test_empty_lists_have_no_table(report: Report) -> None:
    """Without flips and without images left out those two tables are not there."""
    data = report.student.data.model_copy(update={"quarantined": ()})
    student = report.student.model_copy(update={"data": data})
    changed = report.model_copy(update={"student": student, "artifacts": report.artifacts[:1]})
    document = Markdown().render(changed, judged(changed))
    assert "Flip in" not in document
    assert "Image left out" not in document


def test_long_lists_are_cut_and_say_so(report: Report) -> None:
    """A comment has no room for thousands of flips and quarantined images."""
    data = report.student.data
    long = data.model_copy(update={"quarantined": data.quarantined * 30})
    artifact = report.artifacts[3]
    flips = artifact.parity.model_copy(update={"flips": artifact.parity.flips * 25})
    changed = report.model_copy(
        update={
            "student": report.student.model_copy(update={"data": long}),
            "artifacts": (artifact.model_copy(update={"parity": flips}),),
        }
    )
    document = Markdown().render(changed, judged(changed))
    assert document.count("val/ketch/image_0007.jpg") == 20
    assert "and 5 more, all in report.json" in document
    assert "and 40 more, all in report.json" in document


# ----------------------------------------------------------------------------------------------------------------- junit
def test_junit_has_one_case_per_budget(report: Report) -> None:
    """Passed, failed and inconclusive budgets are a plain case, a failure and an error; the totals add up."""
    verdict = judged(report)
    suite = ET.fromstring(Junit().render(report, verdict).split("\n", 1)[1]).find("testsuite")
    cases = suite.findall("testcase")
    budgets = list(dict.fromkeys(f.id or f.budget for f in verdict.findings))
    assert [case.get("name") for case in cases] == budgets
    order = ["fail", "inconclusive", "pass"]
    worst = [min((f.outcome for f in verdict.findings if (f.id or f.budget) == name), key=order.index) for name in budgets]
    expected = {"pass": "system-out", "fail": "failure", "inconclusive": "error"}
    assert [case[0].tag for case in cases] == [expected[outcome] for outcome in worst]
    for case, outcome in zip(cases, worst, strict=True):
        told = (case[0].get("message") or "") + (case[0].text or "")
        assert all(f.because in told for f in verdict.findings if (f.id or f.budget, f.outcome) == (case.get("name"), outcome))
    assert (int(suite.get("tests")), int(suite.get("failures")), int(suite.get("errors"))) == (
        len(worst),
        worst.count("fail"),
        worst.count("inconclusive"),
    )


def test_junit_without_findings_is_an_error(report: Report) -> None:
    """A build server must not read an empty verdict as green."""
    root = ET.fromstring(Junit().render(report, judge(report, [], MadeBy(version="1"))).split("\n", 1)[1])
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert root.find("testsuite/testcase/error").get("message") == wording.NO_BUDGETS


def test_hostile_names_keep_junit_well_formed(reports: ModuleType) -> None:
    """Names add no element and no attribute, and no character that XML forbids."""
    benign = reports.report()
    expected = [(e.tag, sorted(e.keys())) for e in ET.fromstring(Junit().render(benign, judged(benign)).encode()).iter()]
    for name in reports.HOSTILE:
        hostile = reports.report(hostile=name)
        root = ET.fromstring(Junit().render(hostile, judged(hostile)).encode())
        assert [(e.tag, sorted(e.keys())) for e in root.iter()] == expected, name
        assert root.find("testsuite").get("name") == f"edgekd quickstart{wording.plain(name)}"
