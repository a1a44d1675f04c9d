"""Further outputs in the report: what each is worth, and that they are on the pages."""

import pytest

from edgekd.core import parts
from edgekd.core.records import HeadFacts, MadeBy, Report, Verdict
from edgekd.judging import heads, stage
from edgekd.judging.peers import with_peers

MADE_BY = MadeBy(version="0")


@pytest.fixture
def headed(report: Report) -> Report:
    artifact = report.artifacts[0]
    found = (
        HeadFacts(output="logits_birds", classes=("wren", "rook"), parity=artifact.parity, images=8, top1_correct=6),
        HeadFacts(output="logits_fish", classes=("eel",), parity=None),
    )
    return report.model_copy(update={"artifacts": (artifact.model_copy(update={"heads": found}), *report.artifacts[1:])})


def test_a_row_says_what_is_known_of_an_output(headed: Report) -> None:
    """Its accuracy over the images of its own classes, its agreement, and a dash for what is not known."""
    first, second = heads.rows(headed)
    name = headed.artifacts[0].name
    assert first[:2] == (f"{name} logits_birds", "2")
    assert first[2].startswith("75.0 % [")
    assert second == (f"{name} logits_fish", "1", "\N{EN DASH}", "\N{EN DASH}")


@pytest.mark.parametrize("name", ["markdown", "html"])
def test_both_pages_show_them_and_say_nothing_without(headed: Report, report: Report, name: str) -> None:
    """A table under the artifacts, only where there are such outputs."""
    page = parts.load("format", name)()
    shown, without = (page.render(one, stage.judge(one, (), MADE_BY)) for one in (headed, report))  # type: ignore[attr-defined]
    assert "logits_birds" in shown.replace("\\", "")
    assert "Further output" in shown
    assert "Further output" not in without


def verdict(exit_code: int, outcome: str) -> Verdict:
    return Verdict.model_validate(
        {"made_by": {"version": "0"}, "from": {"report": "r"}, "outcome": outcome, "exit_code": exit_code, "findings": ()}
    )


@pytest.mark.parametrize(
    ("own", "peer", "code", "outcome"),
    [
        ((0, "pass"), (0, "pass"), 0, "pass"),
        ((0, "pass"), (1, "fail"), 1, "fail"),
        ((0, "pass"), (3, "inconclusive"), 3, "inconclusive"),
        ((1, "fail"), (3, "inconclusive"), 1, "fail"),
        ((3, "inconclusive"), (0, "pass"), 3, "inconclusive"),
        ((1, "fail"), (4, "error"), 4, "error"),
    ],
)
def test_a_verdict_over_several_students_is_the_worst_of_theirs(
    own: tuple[int, str], peer: tuple[int, str], code: int, outcome: str
) -> None:
    """Its exit code follows the house's order, and it names the verdicts that it was made from."""
    other = verdict(*peer)
    found = with_peers(verdict(*own), {"large": other})
    assert (found.exit_code, found.outcome) == (code, outcome)
    assert found.from_ == {"report": "r", "peers/large": other.digest()}
    assert [(f.subject, f.outcome) for f in found.findings] == [("peer large", peer[1])]
    assert with_peers(verdict(*own), {}) == verdict(*own)
