"""budgets.yaml, and the same in a recipe: what it may say, and where each mistake stands."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.core import budget_schema, budgets, parts
from edgekd.core.budgets import Budgets, read_budgets
from edgekd.core.errors import UsageError

ROOT = Path(__file__).parents[2]
WHOLE = """\
version: 1
defaults: {level: warn, on_inconclusive: warn, alpha: 0.02}
devices:
  pi5:
    device_class: sha256:abcdef01
    governor: performance
    overrides:
      lat: {max: 45ms, level: error}
budgets:
  - {id: lat, metric: latency.p50, max: 20ms}
  - {id: ratio, metric: latency.p50, runtime: onnxruntime, max_ratio: {to: baseline, value: 1.05, min_effect: 0.02}}
  - {id: tail, metric: latency.p99, device: pi5, mode: paced, max: 45ms}
  - {id: ref, metric: latency.p50, max_ratio: {to: reference, value: 0.8}}
  - {metric: accuracy.top1, max_drop: {to: baseline, points: 0.5}, data: "sha256:cd34cd34", level: error}
  - {id: floor, metric: accuracy.top1, min: 72%, alpha: 0.05}
  - {metric: accuracy.per_class, max_drop: {to: baseline, points: 10.0}}
  - {metric: accuracy.brier, max_rise: {to: baseline, value: 0.01}}
  - {metric: parity.top1_agreement, runtime: [onnxruntime, openvino], min: {fp32: 99.9%, int8: 98%}}
  - {metric: size.bytes, max: 12MB}
  - {metric: parameters, max: 3M}
  - {metric: macs, max_ratio: {to: baseline, value: 1.0}}
  - {metric: memory.peak_rss, max: 300MB}
  - {metric: cpu.seconds, max: 40ms, on_inconclusive: error}
waivers:
  - {budget: tail, until: 2026-12-01, reason: new camera stack, by: "@owner"}
"""


def read(tmp_path: Path, text: str) -> Budgets:
    """Return the budgets of a file with this text."""
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    return read_budgets(path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Ids, lines, defaults and their exceptions, and a device's own limit in place of the general one."""
    found = read(tmp_path, WHOLE)
    checks = {check.id: check for check in found.checks if check.id != "lat"}
    lat, on_pi5 = [check for check in found.checks if check.id == "lat"]
    assert (lat.budget.max, lat.budget.except_devices, lat.level, lat.line) == ("20ms", ("pi5",), "warn", 10)
    assert (on_pi5.budget.max, on_pi5.budget.device, on_pi5.level) == ("45ms", "pi5", "error")
    assert checks["ratio"].line == 11
    assert checks["accuracy.top1"].level == "error"
    assert checks["accuracy.top1"].budget.alpha == 0.02
    assert checks["floor"].budget.alpha == 0.05
    assert checks["cpu.seconds"].tolerate_inconclusive is False
    assert checks["macs"].tolerate_inconclusive is True
    assert found.devices["pi5"].governor == "performance"
    assert found.waivers[0].until == "2026-12-01"
    assert found.file == "budgets.yaml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1\n", "", "`version` is missing"),
        ("version: 1\n", "version: 2\n", "budgets.yaml:1:1: `version`: should be 1"),
        ("defaults:", "default:", "unknown key `default`. Did you mean defaults?"),
        ("level: warn, on", "level: warning, on", "2:12: `defaults.level`: should be 'error', 'warn' or 'off'"),
        ("max: 12MB", "mox: 12MB", "19:26: unknown key `budgets.9.mox`. Did you mean max?"),
        ("max: 12MB", "max: 12", "19:26: `budgets.9.max`: expected a size with its unit, such as 12MB"),
        ("max: 12MB", "max: 12 XB", "expected a size with its unit, such as 12MB"),
        ("max: 20ms}", "max: 20}", "10:36: `budgets.0.max`: expected a time with its unit, such as 20ms"),
        ("metric: size.bytes", "metric: size.byte", "19:6: no metric is called 'size.byte'. Did you mean size.bytes?"),
        ("metric: size.bytes", "use: size", "19:6: a budget names a metric: `metric: size.bytes`, not `use: size`"),
        ("metric: latency.p99", "metric: latency.p999", "Did you mean latency.p99"),
        (
            "{to: reference, value",
            "{to: referense, value",
            "13:48: `budgets.3.max_ratio.to`: should be 'baseline' or 'reference'",
        ),
        ("min_effect: 0.02", "min_efect: 0.02", "unknown key `budgets.1.max_ratio.min_efect`. Did you mean min_effect?"),
        ("max: 12MB", "max: 12MB, max_ratio: {to: baseline, value: 1.0}", "give exactly one of `max`, `max_ratio`"),
        ("id: floor", "id: lat", "15:5: another budget is called 'lat' (line 10)"),
        ("budget: tail", "budget: tial", "25:6: no budget is called 'tial'. Did you mean tail?"),
        ("until: 2026-12-01", "until: 2026-13-01", "25:20: `waivers.0.until`: expected a date, such as 2026-12-01"),
        ("until: 2026-12-01", "until: 20261201", "`waivers.0.until`: should be text"),
        (", reason: new camera stack", "", "`waivers.0.reason` is missing"),
        ("      lat: {max", "      size.bytes: {max", "8:7: `size.bytes` is about no device"),
        ("      lat: {max", "      lot: {max", "8:7: no budget is called 'lot'. Did you mean lat?"),
        ("lat: {max: 45ms", "lat: {mox: 45ms", "unknown key"),
        ("lat: {max: 45ms", "lat: {metric: latency.p90", "8:13: `metric` cannot be changed for one device"),
        ('data: "sha256:cd34cd34"', "data: cd", "`budgets.4.data`: "),
    ],
)
def test_a_mistake_has_its_line_and_the_nearest_word(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Exit code 2 with file, line, column, key and what was meant."""
    assert old in WHOLE
    with pytest.raises(UsageError) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    assert message in str(caught.value)
    assert "budgets.yaml" in str(caught.value)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    """A file of budgets without budgets would let everything pass."""
    with pytest.raises(UsageError, match="should have at least 1 item"):
        read(tmp_path, "version: 1\nbudgets: []\n")


def test_a_waiver_holds_to_the_end_of_its_day(tmp_path: Path) -> None:
    """The day after, it is a mistake that names who gave it and why."""
    found = read(tmp_path, WHOLE)
    found.refuse_expired(datetime.date(2026, 12, 1))
    with pytest.raises(UsageError, match=r"the waiver of 'tail' ended on 2026-12-01 \(new camera stack; by @owner\)"):
        found.refuse_expired(datetime.date(2026, 12, 2))


def test_the_digest_is_of_what_is_asked_and_not_of_where_it_stands(tmp_path: Path) -> None:
    """Comments and blank lines change nothing; a limit, a level, a device and a waiver do."""
    digest = read(tmp_path, WHOLE).digest()
    assert read(tmp_path, "# a comment\n\n" + WHOLE).digest() == digest
    for old, new in [("12MB", "13MB"), ("level: error}", "level: warn}"), ("performance", "powersave"), ("12-01", "12-02")]:
        assert read(tmp_path, WHOLE.replace(old, new, 1)).digest() != digest


def test_every_metric_belongs_to_one_part_and_names_it() -> None:
    """`latency.p50` is judged by `latency`; that is how a package adds a family with one file."""
    for metric in budgets.metrics():
        assert metric.partition(".")[0] in parts.names("budget")
    assert len(set(budgets.metrics())) == len(budgets.metrics())


# ---------------------------------------------------------------------------------------------------------------- schema
def test_the_published_schema_is_the_one_that_is_generated() -> None:
    """`edgekd gate --schema > edgekd/judging/budgets.schema.json` renews it."""
    published = ROOT / "edgekd" / "judging" / "budgets.schema.json"
    assert published.read_text(encoding="utf-8") == budget_schema.text()


def complaints(value: Any, rule: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Return what is wrong with a value by the few words of JSON Schema that ours uses; a small independent reader."""
    import re

    if "$ref" in rule:
        return complaints(value, whole["$defs"][rule["$ref"].rpartition("/")[2]], whole)
    for word in ("anyOf", "oneOf"):
        if word in rule and all(complaints(value, one, whole) for one in rule[word]):
            return [f"{value!r} is none of them"]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "null": type(None),
        "boolean": bool,
    }
    found = []
    if "type" in rule and not isinstance(value, kinds[rule["type"]]):
        found.append(f"{value!r} is no {rule['type']}")
    if ("enum" in rule and value not in rule["enum"]) or ("const" in rule and value != rule["const"]):
        found.append(f"{value!r} is not allowed")
    if isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        found.append(f"{value!r} does not match")
    if isinstance(value, list):
        found += [said for one in value for said in complaints(one, rule.get("items", {}), whole)]
        found += ["too short"] * (len(value) < rule.get("minItems", 0))
    if isinstance(value, dict):
        properties = rule.get("properties", {})
        found += [f"{key} is missing" for key in rule.get("required", []) if key not in value]
        for key, one in value.items():
            if key in properties:
                found += complaints(one, properties[key], whole)
            elif rule.get("additionalProperties") is False:
                found.append(f"{key} is unknown")
            elif isinstance(rule.get("additionalProperties"), dict):
                found += complaints(one, rule["additionalProperties"], whole)
    return found


def as_json(text: str) -> Any:
    """Return a YAML text as JSON data."""
    from edgekd.core.strict_yaml import parse

    return json.loads(json.dumps(parse(text, "x")[0]))


@pytest.mark.parametrize(
    ("old", "new", "sound"),
    [
        ("", "", True),
        ("max: 12MB", "mox: 12MB", False),
        ("max: 12MB", "max: 12", False),
        ("metric: size.bytes", "metric: size.byte", False),
        ("{to: reference,", "{to: teacher,", False),
        ("version: 1\n", "", False),
        ("level: warn, on", "level: warning, on", False),
    ],
)
def test_the_schema_takes_and_refuses_what_edgekd_does(tmp_path: Path, old: str, new: str, sound: bool) -> None:
    """An editor that follows the schema marks the same mistakes."""
    text, whole = WHOLE.replace(old, new, 1), budget_schema.schema()
    assert (not complaints(as_json(text), whole, whole)) == sound
    if sound:
        read(tmp_path, text)
    else:
        with pytest.raises(UsageError):
            read(tmp_path, text)
