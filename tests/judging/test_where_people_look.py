"""Every place where a verdict is shown: complete, within its limits, and deaf to what a hundred hostile names say."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edgekd.core.contracts import Format
from edgekd.core.records import Finding, MadeBy, Report, Verdict, Waiver
from edgekd.judging import wording
from edgekd.judging.formats._findings import clipped
from edgekd.judging.formats._markdown import fitted
from edgekd.judging.formats.annotations import Annotations
from edgekd.judging.formats.badge import Badge
from edgekd.judging.formats.comment import Comment, mark
from edgekd.judging.formats.junit import Junit
from edgekd.judging.formats.markdown import Markdown
from edgekd.judging.formats.openmetrics import Openmetrics
from edgekd.judging.formats.sarif import Sarif
from edgekd.judging.formats.terminal import Terminal
from edgekd.judging.stage import judge

_spec = importlib.util.spec_from_file_location("edgekd_test_payloads", Path(__file__).with_name("payloads.py"))
payloads = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(payloads)
PAYLOADS = payloads.PAYLOADS

ALL: tuple[Format, ...] = (Terminal(), Markdown(), Comment(), Junit(), Sarif(), Annotations(), Badge(), Openmetrics())
OUTCOMES = ("pass", "fail", "inconclusive", "error")
CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "error": 4}


def finding(budget: str, outcome: str = "fail", *, subject: str = "onnxruntime-fp32@local", **changes: object) -> Finding:
    """Return a finding of a latency budget."""
    facts: dict = {"value": 1.3, "limit": 1.0, "bound": "at most", "unit": "ms", "because": f"{budget} says {outcome}."}
    return Finding(budget=budget, subject=subject, outcome=outcome, **{**facts, **changes})


def verdict(report: Report, *findings: Finding) -> Verdict:
    """Return a verdict of these findings."""
    worst = max((one.outcome for one in findings), key=["pass", "inconclusive", "fail", "error"].index, default="inconclusive")
    return Verdict(
        made_by=MadeBy(version="1"),
        from_={"report": report.digest()},
        outcome=worst,
        exit_code=CODES[worst],
        findings=findings,
    )


def one_of_each(report: Report, name: str = "") -> Verdict:
    """Return a verdict with each outcome once, `name` worked into every text."""
    found = [
        finding(f"budget {outcome}{name}", outcome, subject=f"subject{name}", because=f"because{name}") for outcome in OUTCOMES
    ]
    return verdict(report, *found)


@pytest.fixture(scope="module")
def benign(reports: ModuleType) -> Report:
    """Return the report whose names mean no harm."""
    return reports.report()


@pytest.fixture(scope="module")
def hostile(reports: ModuleType) -> list[tuple[str, Report]]:
    """Return every hostile name with the report that bears it everywhere; the same records, renamed."""
    return [(name, reports.report(hostile=name)) for name in PAYLOADS]


# ------------------------------------------------------------------------------------------------------- a hundred payloads
def test_there_are_a_hundred_different_payloads() -> None:
    """The list is what it says."""
    assert len(set(PAYLOADS)) == len(PAYLOADS) == 100


def shape(value: object) -> object:
    """Return the keys and types of JSON without its strings."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "" if isinstance(value, str) else value


def skeleton(part: Format, text: str) -> object:
    """Return what a reader of the format makes of a document, without the texts in it."""
    if isinstance(part, Markdown | Comment):
        tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
        inner = [child for token in tokens for child in (token, *(token.children or ()))]
        # A name is a code span or an element with everything in it escaped, depending on its characters.
        code = [
            one for one in inner if one.type == "html_inline" and one.content not in ("<code>", "</code>", "<sub>", "</sub>")
        ]
        blocks = [
            (one.type, one.tag) for one in inner if one.type not in ("text", "code_inline", "html_inline", "text_special")
        ]
        return blocks, [one.content for one in code]
    if isinstance(part, Junit):
        return [(element.tag, sorted(element.keys())) for element in ET.fromstring(text.encode()).iter()]
    if isinstance(part, Sarif | Badge):
        return shape(json.loads(text))
    if isinstance(part, Annotations):
        line = r"::(error|warning) file=[\w./-]+,line=\d+,title=[^:,\r\n]+::[^\r\n]*"
        return [re.fullmatch(line, one)[1] for one in text.splitlines()]
    if isinstance(part, Openmetrics):
        families = text_string_to_metric_families(text)
        return [
            (family.name, family.type, [(s.name, sorted(s.labels), s.value) for s in family.samples]) for family in families
        ]
    return [line.partition(" ")[0] for line in text.splitlines() if not line.startswith("    ")]


@pytest.mark.parametrize("part", ALL, ids=lambda part: type(part).__name__)
def test_a_hundred_hostile_names_are_inert(part: Format, benign: Report, hostile: list[tuple[str, Report]]) -> None:
    """What a parser of the format sees is the same elements, keys, commands, samples and lines, whatever things are called."""
    expected = skeleton(part, part.render(benign, one_of_each(benign)))
    assert expected
    for name, report in hostile:
        text = part.render(report, one_of_each(report, name))
        assert skeleton(part, text) == expected, name
        assert not {c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2066\u2028"}
        text.encode()
        assert not [line for line in text.splitlines() if not isinstance(part, Annotations) and re.match(r"\s*::", line)], name
        assert isinstance(part, Markdown | Comment | Sarif | Badge | Junit | Openmetrics) or "##[" not in text, name


def test_code_hosts_find_no_mention_link_or_issue_in_a_comment(hostile: list[tuple[str, Report]]) -> None:
    """An invisible break stands wherever they look for one."""
    active = r"@\w|(?<![\w&])#\d|\bGH-\d|\w+://|www\.|:\w+:"
    for name, report in hostile:
        for part in (Comment(), Markdown()):
            tokens = MarkdownIt("commonmark").enable("table").parse(part.render(report, one_of_each(report, name)))
            shown = [child for token in tokens for child in token.children or ()]
            text = "\n".join(one.content for one in shown if one.type != "code_inline")
            assert not re.search(active, text, re.IGNORECASE), name


def test_the_badge_holds_no_name(benign: Report, hostile: list[tuple[str, Report]]) -> None:
    """It is the same for every hostile report."""
    expected = Badge().render(benign, one_of_each(benign))
    assert {Badge().render(report, one_of_each(report, name)) for name, report in hostile} == {expected}


# --------------------------------------------------------------------------------------------------------------- size guards
LONG = "@" * 3_000  # the text that grows most when it is made harmless


@pytest.fixture(scope="module")
def flood(benign: Report) -> Verdict:
    """Return ten thousand findings of ten thousand budgets with long reasons."""
    return verdict(benign, *(finding(f"budget {i} {LONG}", because=LONG) for i in range(10_000)))


def test_ten_thousand_budgets_fit_everywhere(benign: Report, flood: Verdict) -> None:
    """Summary 900 KiB, comment 60 kB, ten annotations, one SARIF run of a thousand results and at most 10 MB."""
    assert len(Markdown().render(benign, flood).encode()) <= 900 * 1024
    comment = Comment().render(benign, flood)
    assert len(comment.encode()) <= 60_000
    assert comment.startswith(mark(benign))
    assert len(Annotations().render(benign, flood).splitlines()) == 10
    sarif = Sarif().render(benign, flood)
    log = json.loads(sarif)
    assert [len(run["results"]) for run in log["runs"]] == [1_000]
    assert log["runs"][0]["properties"]["leftOut"] == 9_000
    assert len(sarif.encode()) <= 10_000_000
    ET.fromstring(Junit().render(benign, flood))


texts = st.text(st.characters(codec=None), max_size=60)
anything = st.builds(
    finding,
    texts,
    st.sampled_from(OUTCOMES),
    subject=texts,
    because=texts,
    unit=st.sampled_from(["ms", "%", "bytes", "points", "", "weights"]) | texts,
    bound=st.sampled_from(["at most", "at least"]),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    limit=st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=150)
@given(found=st.lists(anything, max_size=30))
def test_no_verdict_breaks_a_format(reports: ModuleType, found: list[Finding]) -> None:
    """Whatever findings say, every document can be read, keeps its limits, and is the same when it is made again."""
    report = reports.bare_report()
    told = verdict(report, *found)
    for part in ALL:
        text = part.render(report, told)
        text.encode()
        skeleton(part, text)
        assert text == part.render(report, told)
    assert len(Annotations().render(report, told).splitlines()) <= 10
    assert len(Comment().render(report, told).encode()) <= 60_000


@given(text=st.text(st.characters(codec="utf-8"), max_size=400), most=st.integers(60, 300))
def test_a_document_is_cut_between_lines(text: str, most: int) -> None:
    """What is left is whole lines of it and the note, and never too long."""
    cut = fitted(text, most_bytes=most, note="cut", closing="end\n")
    assert len(cut.encode()) <= most
    if cut != text:
        kept, _, rest = cut.rpartition("\n\ncut\n")
        assert rest == "end\n"
        assert kept == "" or text.startswith(f"{kept}\n")


def test_a_clipped_text_has_exactly_its_length() -> None:
    """The ellipsis counts."""
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdefg", 6) == "abcde…"


# -------------------------------------------------------------------------------- what warns, what was waived, what would help
@pytest.fixture(scope="module")
def mixed(benign: Report) -> Verdict:
    """Return a verdict that passed: one finding warns, one was waived, one is tolerated, one passed though waived."""
    waived = Waiver(until="2026-12-01", reason="new camera", by="@owner")
    found = (
        finding("latency p50", "fail", id="lat-warn", level="warn", line=3),
        finding("latency p99", "fail", id="lat-pi", waived=waived, line=7),
        finding("accuracy", "inconclusive", id="top1", tolerated=True, needs="12,617 images would decide.", line=11),
        finding("size", "pass", id="size", waived=waived, line=15),
    )
    return verdict(benign, *found).model_copy(update={"outcome": "pass", "exit_code": 0, "budgets_file": "ci/budgets.yaml"})


def test_junit_skips_what_does_not_count(benign: Report, mixed: Verdict) -> None:
    """Nothing failed; the reasons stand in the skipped cases."""
    root = ET.fromstring(Junit().render(benign, mixed))
    cases_ = {case.get("name"): case[0] for case in root.iter("testcase")}
    assert {name: child.tag for name, child in cases_.items()} == {
        "lat-warn": "skipped",
        "lat-pi": "skipped",
        "top1": "skipped",
        "size": "system-out",
    }
    assert cases_["lat-pi"].get("message").endswith("Waived until 2026-12-01 by @owner: new camera.")
    assert (root.get("failures"), root.get("errors"), root.find("testsuite").get("skipped")) == ("0", "0", "3")


def test_sarif_tells_levels_waivers_and_lines(benign: Report, mixed: Verdict) -> None:
    """A warning, a suppressed note; each at its line of the file that the verdict names, unless another path is asked for."""
    log = json.loads(Sarif().render(benign, mixed))
    Draft7Validator(SARIF_SCHEMA).validate(log)
    found = {one["ruleId"]: one for one in log["runs"][0]["results"]}
    assert {name: one["level"] for name, one in found.items()} == {"lat-warn": "warning", "top1": "warning", "lat-pi": "note"}
    assert "new camera" in found["lat-pi"]["suppressions"][0]["justification"]
    places = {name: one["locations"][0]["physicalLocation"] for name, one in found.items()}
    assert {name: place["region"]["startLine"] for name, place in places.items()} == {"lat-warn": 3, "lat-pi": 7, "top1": 11}
    assert {place["artifactLocation"]["uri"] for place in places.values()} == {"ci/budgets.yaml"}
    assert '"uri": "other.yaml"' in Sarif(budgets="other.yaml").render(benign, mixed)


def test_annotations_warn_at_the_line_and_leave_out_what_was_waived(benign: Report, mixed: Verdict) -> None:
    """What would decide an open question is told."""
    first, second = Annotations().render(benign, mixed).splitlines()
    assert first.startswith("::warning file=ci/budgets.yaml,line=3,title=edgekd%3A lat-warn ")
    assert second.startswith("::warning file=ci/budgets.yaml,line=11,")
    assert second.endswith("::accuracy says inconclusive. 12,617 images would decide.")


@pytest.mark.parametrize("path", ["/etc/passwd", "a b,line=9", "x::error::y", "\n::error::x"])
def test_a_hostile_path_of_the_budgets_file_is_not_repeated(benign: Report, mixed: Verdict, path: str) -> None:
    """The verdict's own word for the file is used if it is a plain one only."""
    told = mixed.model_copy(update={"budgets_file": path})
    assert all(" file=budgets.yaml,line=" in line for line in Annotations().render(benign, told).splitlines())
    assert '"uri": "budgets.yaml"' in Sarif().render(benign, told)


def test_the_terminal_and_the_comment_tell_what_does_not_count(benign: Report, mixed: Verdict) -> None:
    """With its word, the budget's own name, who waived it and what would decide it; the verdict passes."""
    table = Terminal().render(benign, mixed)
    assert re.search(r"^warning +latency p50 \(lat-warn\) ", table, re.MULTILINE)
    assert re.search(r"^waived +latency p99 \(lat-pi\) ", table, re.MULTILINE)
    assert "    12,617 images would decide." in table
    assert "    Waived until 2026-12-01 by @owner: new camera." in table
    assert table.splitlines()[-1] == "PASSED: 4 checks: 1 passed, 2 warning, 1 waived (exit code 0)"
    comment = Comment().render(benign, mixed)
    assert "| waived | latency p99 (lat-pi) |" in comment
    assert "@owner" not in comment
    openmetrics = text_string_to_metric_families(Openmetrics().render(benign, mixed))
    (open_,) = [family for family in openmetrics if family.name == "edgekd_finding_open"]
    assert {sample.labels["budget"]: sample.value for sample in open_.samples} == {
        "lat-warn": 0,
        "lat-pi": 0,
        "top1": 0,
        "size": 0,
    }


# -------------------------------------------------------------------------------------------------------------------- comment
def test_the_comment_says_what_did_not_pass_and_counts_the_rest(benign: Report) -> None:
    """Hidden mark, verdict, headline, open findings with reasons, latencies, digests."""
    told = verdict(benign, finding("slow"), finding("fine", "pass"), finding("open", "inconclusive"))
    comment = Comment().render(benign, told)
    assert comment.splitlines()[0] == mark(benign)
    assert "### ❌ edgekd: quickstart failed" in comment
    assert comment.index("| **failed** | slow |") < comment.index("| **inconclusive** | open |")
    assert "fine" not in comment
    assert "and 1 check passed" in comment
    assert "- **failed**: slow says fail." in comment
    assert "openvino-fp32" in comment
    assert told.digest()[:12] in comment


def test_the_comment_of_a_recipe_is_found_again(benign: Report) -> None:
    """Its mark depends on the recipe alone, and is a comment of HTML that nothing of the recipe's name can close."""
    later = benign.model_copy(update={"artifacts": ()})
    other = benign.model_copy(update={"recipe": "--><b>"})
    assert mark(later) == mark(benign) != mark(other)
    assert re.fullmatch(r"<!-- edgekd verdict [0-9a-f]{16} -->", mark(other))


def test_a_comment_without_budgets_says_so(benign: Report) -> None:
    """Nothing judged is not passed."""
    assert "unknown is not passed" in Comment().render(benign, verdict(benign))


# ---------------------------------------------------------------------------------------------------------------------- junit
def cases(report: Report, told: Verdict) -> Iterator[ET.Element]:
    """Return the test cases of a verdict."""
    return ET.fromstring(Junit().render(report, told)).iter("testcase")


def test_a_budget_with_several_subjects_is_one_case(benign: Report) -> None:
    """Its worst finding decides, and every subject that stands so is named."""
    told = verdict(
        benign,
        finding("lat", "pass", subject="a"),
        finding("lat", "fail", subject="b"),
        finding("lat", "fail", subject="c"),
        finding("lat", "inconclusive", subject="d"),
    )
    (case,) = cases(benign, told)
    assert [child.tag for child in case] == ["failure"]
    assert case[0].text == "b: lat says fail.\nc: lat says fail."


# ---------------------------------------------------------------------------------------------------------------------- sarif
_TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1}},
    "required": ["text"],
    "additionalProperties": False,
}
_LOCATION = {
    "type": "object",
    "required": ["physicalLocation"],
    "additionalProperties": False,
    "properties": {
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation", "region"],
            "additionalProperties": False,
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "required": ["uri"],
                    "additionalProperties": False,
                    "properties": {"uri": {"type": "string", "format": "uri-reference"}, "uriBaseId": {"const": "%SRCROOT%"}},
                },
                "region": {
                    "type": "object",
                    "required": ["startLine"],
                    "additionalProperties": False,
                    "properties": {"startLine": {"type": "integer", "minimum": 1}},
                },
            },
        }
    },
}
# The part of SARIF 2.1.0 that is used, written after sections 3.13 to 3.58 of the standard; nothing else may stand in a log.
SARIF_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "additionalProperties": False,
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"const": "edgekd"},
                                    "version": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {"id": {"type": "string"}, "shortDescription": _TEXT, "help": _TEXT},
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {
                        "type": "array",
                        "maxItems": 1_000,
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": _TEXT,
                                "locations": {"type": "array", "items": _LOCATION},
                                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                                "suppressions": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "required": ["kind"],
                                        "properties": {"kind": {"const": "external"}, "justification": {"type": "string"}},
                                    },
                                },
                                "properties": {"type": "object"},
                            },
                        },
                    },
                    "properties": {"type": "object"},
                },
            },
        },
    },
}


def test_sarif_is_sound_and_every_result_finds_its_rule(benign: Report) -> None:
    """One rule per budget, one result per finding that did not pass, worst first."""
    told = verdict(benign, finding("a", "pass"), finding("b", "inconclusive"), finding("c", "fail"), finding("c", "error"))
    log = json.loads(Sarif(budgets="ci/budgets.yaml").render(benign, told))
    Draft7Validator(SARIF_SCHEMA).validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert sorted(rules) == ["a", "b", "c"]
    assert [(rules[one["ruleIndex"]], one["ruleId"], one["properties"]["outcome"]) for one in run["results"]] == [
        ("c", "c", "error"),
        ("c", "c", "fail"),
        ("b", "b", "inconclusive"),
    ]
    assert {one["level"] for one in run["results"]} == {"error"}
    assert {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]} == {"ci/budgets.yaml"}


def test_sarif_of_hostile_reports_and_of_nothing_is_sound(benign: Report, hostile: list[tuple[str, Report]]) -> None:
    """Also where nothing was judged, which is one error."""
    validator = Draft7Validator(SARIF_SCHEMA)
    for name, report in hostile:
        validator.validate(json.loads(Sarif().render(report, one_of_each(report, name))))
    empty = json.loads(Sarif().render(benign, verdict(benign)))
    validator.validate(empty)
    assert [one["level"] for one in empty["runs"][0]["results"]] == ["error"]


def test_sarif_messages_hold_no_link_and_no_placeholder(benign: Report) -> None:
    """Brackets are escaped and braces doubled, as the standard asks."""
    told = verdict(benign, finding("b", because="[see](1) {0}"))
    text = json.loads(Sarif().render(benign, told))["runs"][0]["results"][0]["message"]["text"]
    assert "\\[see\\](1) {{0}}" in text


def test_a_result_keeps_its_fingerprint_when_figures_change(benign: Report) -> None:
    """Code scanning follows one alert over many commits."""

    def print_of(**changes: object) -> str:
        log = json.loads(Sarif().render(benign, verdict(benign, finding("b", **changes))))
        return log["runs"][0]["results"][0]["partialFingerprints"]["edgekd/v1"]

    assert print_of() == print_of(value=9.0, because="other") != print_of(subject="another")


@pytest.mark.parametrize("path", ["/etc/passwd", "a b.yaml", "x,line=1", "a\nb", "%0A"])
def test_the_budgets_files_path_is_a_plain_one(path: str) -> None:
    """What goes into commands and addresses has letters that mean nothing there."""
    for kind in (Sarif, Annotations):
        with pytest.raises(ValueError, match="pattern"):
            kind(budgets=path)


# ---------------------------------------------------------------------------------------------------------------- annotations
def test_annotations_are_at_most_ten_worst_first_and_say_how_many_more(benign: Report) -> None:
    """The runner shows ten and drops the rest silently, so the tenth says so."""
    told = verdict(benign, *(finding(f"b{i}", "inconclusive") for i in range(11)), finding("worst"), finding("ok", "pass"))
    lines = Annotations(budgets="ci/budgets.yaml").render(benign, told).splitlines()
    assert len(lines) == 10
    head = "::error file=ci/budgets.yaml,line=1,title=edgekd%3A worst [onnxruntime-fp32@local] failed::worst says fail."
    assert lines[0] == head
    assert lines[9].endswith("::3 more did not pass; all of them are in verdict.json")


def test_annotations_of_a_pass_are_none(benign: Report) -> None:
    """There is nothing to point at."""
    assert Annotations().render(benign, verdict(benign, finding("ok", "pass"))) == ""


def test_annotations_encode_what_the_runner_decodes(benign: Report) -> None:
    """Percent, colon and comma, as the runner's own toolkit does."""
    told = verdict(benign, finding("a:b,c", because="50 % off: a, b"))
    (line,) = Annotations().render(benign, told).splitlines()
    assert "title=edgekd%3A a%3Ab%2Cc " in line
    assert line.endswith("::50 %25 off: a, b")


# ---------------------------------------------------------------------------------------------------------- badge and metrics
@pytest.mark.parametrize(("outcome", "colour"), [("pass", "brightgreen"), ("fail", "red"), ("inconclusive", "yellow")])
def test_the_badge_tells_verdict_and_figures(benign: Report, outcome: str, colour: str) -> None:
    """As shields.io's endpoint takes it."""
    badge = json.loads(Badge(label="gate").render(benign, verdict(benign, finding("b", outcome))))
    word = wording.OUTCOMES[outcome]
    assert badge == {
        "schemaVersion": 1,
        "label": "gate",
        "message": f"{word}, 71.2 % top-1, 0.933 ms p50",
        "color": colour,
        "isError": False,
    }


def test_metrics_tell_every_figure_in_base_units(benign: Report) -> None:
    """Seconds, bytes and ratios; the verdict as a state."""
    text = Openmetrics().render(benign, verdict(benign, finding("slow"), finding("slow"), finding("unknown", value=None)))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    now = {sample.labels["edgekd_verdict"]: sample.value for sample in families["edgekd_verdict"].samples}
    assert now == {"pass": 0, "fail": 1, "inconclusive": 0, "error": 0}
    latency = {(s.labels["artifact"], s.labels["percentile"]): s.value for s in families["edgekd_latency_seconds"].samples}
    for summary in benign.latencies:
        assert latency[summary.artifact, "p50"] == pytest.approx(summary.p50_ms / 1000)
    sizes = {sample.labels["artifact"]: sample.value for sample in families["edgekd_artifact_size_bytes"].samples}
    assert sizes == {artifact.name: artifact.size_bytes for artifact in benign.artifacts}
    assert [sample.labels["budget"] for sample in families["edgekd_finding_value"].samples] == ["slow"]
    assert [sample.labels["budget"] for sample in families["edgekd_finding_limit"].samples] == ["slow", "unknown"]


# ------------------------------------------------------------------------------------------------------------------- terminal
def test_the_terminal_file_is_the_table(benign: Report) -> None:
    """Without colours, the reason under what did not pass, the verdict last."""
    text = Terminal().render(benign, verdict(benign, finding("slow"), finding("ok", "pass")))
    assert text.splitlines()[-1] == "FAILED: 2 checks: 1 passed, 1 failed (exit code 1)"
    assert "    slow says fail." in text


def test_no_line_of_the_table_is_a_command_to_a_runner(benign: Report) -> None:
    """A reason that is wrapped right before two colons would begin a line with them."""
    told = verdict(benign, finding("b", because=f"{'x' * 94} ::error::evil ##[error]evil"))
    text = Terminal().render(benign, told)
    assert "\\u003a:error::evil" in text
    assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)


def test_judged_reports_pass_through_every_format(benign: Report) -> None:
    """The judge's own verdict over no budgets is told as open everywhere."""
    told = judge(benign, [], MadeBy(version="1"))
    assert all(part.render(benign, told) for part in ALL)
