"""Pictures and likeness of features in the reports: there where the record is, escaped, and nowhere else."""

import math
import re
import sys
from html.parser import HTMLParser
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

from edgekd.core.records import Checkpoint, MadeBy, Picture, Report, Representation
from edgekd.judging import wording
from edgekd.judging.formats import _page, _plots, html
from edgekd.judging.formats._drawing import svg
from edgekd.judging.formats.html import Html
from edgekd.judging.formats.markdown import Markdown
from edgekd.judging.stage import judge


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


def seen(*, classes: int = 10, name: str = "vit_tiny", images: int = 40, customised: bool = True) -> Representation:
    """Return pictures of a spiral by both methods, for student, teacher and (if asked) the customised teacher."""
    whose = ["student", name, *([f"{name}, customised"] if customised else [])]
    points = tuple((round(i / images * math.cos(i), 3), round(i / images * math.sin(i), 3)) for i in range(images))
    pictures = tuple(Picture(of=of, method=method, points=points) for method in ("pca", "tsne") for of in whose)
    cka = {f"student ~ {name}": 0.61249, f"{name} ~ constant": None}
    return Representation(labels=tuple(i % classes for i in range(images)), cka=cka, pictures=pictures)


def with_pictures(report: Report, found: Representation) -> Report:
    return report.model_copy(update={"student": report.student.model_copy(update={"representation": found})})


def page_of(report: Report) -> str:
    return Html().render(report, judge(report, [], MadeBy(version="1")))


def document_of(report: Report) -> str:
    return Markdown().render(report, judge(report, [], MadeBy(version="1")))


def test_the_page_shows_every_picture_and_figure(report: Report) -> None:
    """Six pictures beside the four plots, each named; likeness to three decimals, a dash where there is none."""
    page = page_of(with_pictures(report, seen()))
    text = Structure(page).text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.count("<svg ") == page.count("</svg>") == 4 + 6
    for said in (
        "What the student sees",
        "the same 40 validation images",
        "student ~ vit_tiny",
        "0.612",
        "vit_tiny, customised, t-SNE",
    ):
        assert said in text, said
    assert "Customised are" in text
    assert 'aria-label="PCA of the features: student"' in page
    assert f'vit_tiny ~ constant</th><td class="r">{wording.MISSING}</td>' in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_a_picture_has_a_dot_an_image_in_its_classes_colour(report: Report) -> None:
    """Forty dots; each of the ten colours on four of them and in the legend, which names the class."""
    shown = with_pictures(report, seen())
    drawing = svg(_plots.representation(shown)[0])
    dots = re.findall(r"<use [^>]*>", drawing)
    assert len(dots) == 40
    for colour in _plots.CLASS_COLOURS:
        assert sum(colour in dot for dot in dots) == 4
    legend = _page.Page(shown, judge(shown, [], MadeBy(version="1"))).classes_shown()
    assert legend == list(zip(report.student.classes, _plots.CLASS_COLOURS, strict=True))
    page = page_of(shown)
    assert all(f"background: {colour}" in page for colour in _plots.CLASS_COLOURS)


def test_many_classes_have_no_legend(report: Report) -> None:
    """With more than ten classes no name is given to a colour, and the page says that colours repeat."""
    student = report.student.model_copy(
        update={"classes": tuple(f"class-{i}" for i in range(30)), "representation": seen(classes=30)}
    )
    page = page_of(report.model_copy(update={"student": student}))
    assert "colours repeat" in page
    assert f"background: {_plots.CLASS_COLOURS[0]}" not in page
    assert _plots.class_colour(12) == _plots.class_colour(2)


def test_without_a_customised_teacher_the_word_is_not_explained(report: Report) -> None:
    """Most methods put nothing into the student's terms."""
    assert "Customised are" not in page_of(with_pictures(report, seen(customised=False)))


def test_without_matplotlib_the_figures_are_there(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures and no legend, but how alike the features are is said all the same."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = page_of(with_pictures(report, seen()))
    assert "<svg" not in page
    assert "0.612" in page
    assert "A dot is an image" not in page


def test_the_document_has_one_table(report: Report) -> None:
    """Markdown shows how alike the features are, pair by pair, and on how many images."""
    section = document_of(with_pictures(report, seen())).partition("## What the student sees\n\n")[2].partition("\n\n## ")[0]
    assert section.splitlines() == [
        "| Features compared | Linear CKA |",
        "| --- | --- |",
        "| student \\~ vit_tiny | 0.612 |",
        f"| vit_tiny \\~ constant | {wording.MISSING} |",
        "",
        "On 40 validation images; 1 is alike up to rotation and scale.",
    ]


def test_hostile_names_change_nothing_but_text(reports: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a teacher is called, page and document have the same elements, and the name is shown as it is."""
    monkeypatch.setattr(html, "svg", lambda drawing: "<svg></svg>")  # for speed: no drawing holds a name
    benign = with_pictures(reports.bare_report(), seen(name="vit"))
    page_tags = [(tag, [key for key, _ in attrs]) for tag, attrs in Structure(page_of(benign)).tags]
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tags = [tag for tag, _ in Structure(markdown.render(document_of(benign))).tags]
    for name in reports.HOSTILE:
        hostile = with_pictures(reports.bare_report(), seen(name=f"vit{name}"))
        found = Structure(page_of(hostile))
        assert [(tag, [key for key, _ in attrs]) for tag, attrs in found.tags] == page_tags, name
        shown = wording.plain(f"vit{name}")
        assert shown in found.text.replace("\N{NO-BREAK SPACE}", " "), name
        document = Structure(markdown.render(document_of(hostile)))
        assert [tag for tag, _ in document.tags] == tags, name
        assert f"student ~ {shown}" in document.text.replace("\u200b", ""), name


def test_no_drawing_holds_a_name(report: Report) -> None:
    """The scatter of a report is the same whatever its teachers are called."""
    found = seen()
    renamed = Representation(
        labels=found.labels, cka={}, pictures=tuple(p.model_copy(update={"of": "<x>"}) for p in found.pictures)
    )
    drawn = [[svg(one) for one in _plots.representation(with_pictures(report, of))] for of in (found, renamed)]
    assert drawn[0] == drawn[1]


def test_labels_that_are_no_class_are_drawn_and_not_named(report: Report) -> None:
    """A record that does not fit together makes a page all the same."""
    odd = Representation(
        labels=(-1, 99, 0), cka={}, pictures=(Picture(of="student", method="pca", points=((0.0, 0.0), (1.0, 1.0))),)
    )
    page = _page.Page(with_pictures(report, odd), judge(report, [], MadeBy(version="1")))
    assert [name for name, _ in page.classes_shown()] == [report.student.classes[0]]
    assert len(re.findall("<use ", svg(_plots.representation(with_pictures(report, odd))[0]))) == 2


def test_a_report_without_it_says_nothing_of_it(report: Report) -> None:
    """No section, no scatter, and the record on disk does not mention what it does not have."""
    assert "What the student sees" not in page_of(report) + document_of(report)
    assert _plots.representation(report) == []
    assert "representation" not in report.to_json()
    assert '"representation"' in with_pictures(report, seen()).to_json()


def test_a_checkpoint_with_it_comes_back_from_disk(report: Report) -> None:
    """The record with pictures is read as it was written, under another digest than the one without."""
    changed = report.student.model_copy(update={"representation": seen()})
    assert Checkpoint.from_json(changed.to_json()) == changed
    assert changed.digest() != report.student.digest()
    assert Checkpoint.from_json(report.student.to_json()) == report.student
