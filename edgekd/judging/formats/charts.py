"""The charts as files: PNG in `charts/`, and a Markdown page that shows them where HTML cannot be."""

from typing import ClassVar

from edgekd.core.contracts import Format
from edgekd.core.records import Report, Verdict
from edgekd.judging import wording
from edgekd.judging.formats import _plots
from edgekd.judging.formats._drawing import Drawing, available, png

FOLDER = "charts"
TITLES = {
    "trade": "Accuracy against latency",
    "latency": "Latency",
    "accuracy": "Validation accuracy while training",
    "loss": "Training loss",
    "timeline": "The session as time went by",
    "representation": "Features",
}


class Charts(Format):
    """PNG charts in charts/ and a Markdown page that shows them; needs matplotlib (the `report` extra)."""

    file_name: ClassVar[str] = "charts.md"

    def render(self, report: Report, verdict: Verdict) -> str:
        """Return the page; without matplotlib it says what to install."""
        lines = [f"# Charts: {wording.OUTCOMES[verdict.outcome]}"]
        for name in self._drawn(report):
            title = TITLES[name.partition("-")[0]]
            lines += [f"## {title}", f"![{title}]({FOLDER}/{name}.png)"]
        if not available():
            lines.append("Charts are drawn by matplotlib, which is not installed: `pip install 'edgekd[report]'`.")
        elif len(lines) == 1:
            lines.append("There is nothing to draw.")
        return "\n\n".join(lines) + "\n"

    def beside(self, report: Report, verdict: Verdict) -> dict[str, bytes]:
        """Return each chart by its file's name."""
        return {f"{FOLDER}/{name}.png": png(drawing) for name, drawing in self._drawn(report).items()}

    def _drawn(self, report: Report) -> dict[str, Drawing]:
        """Return the charts in reading order."""
        found = _plots.all_of(report) if available() else {}
        return {name: found[name] for key in TITLES for name in found if name.partition("-")[0] == key}
