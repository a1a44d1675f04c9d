"""The page as a browser shows it: quiet, alone, fitting every screen, reachable by keyboard, and deaf to hostile names."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.core.records import MadeBy, Report
from edgekd.judging.budgets.accuracy import AccuracyLimit
from edgekd.judging.budgets.latency import Latency
from edgekd.judging.budgets.parity import ParityLimit
from edgekd.judging.budgets.size import Size
from edgekd.judging.formats.html import Html
from edgekd.judging.stage import judge

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BUDGETS = (
    AccuracyLimit(min="60%"),
    AccuracyLimit(min_gain={"to": "undistilled"}, of="student"),
    ParityLimit(min_counted="99.9%"),
    ParityLimit(metric="parity.max_abs", max=0.01),
    Size(max="4MB"),
    Latency(max="0.93ms", artifact="openvino-fp32"),
)
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = light(parse(getComputedStyle(document.body).backgroundColor));
  const worst = (selector) => Math.min(...[...document.querySelectorAll(selector)].map((element) => {
    const own = light(parse(getComputedStyle(element).color));
    return (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
  }));
  return {back, text: worst("h1, h2, td:not(.hash), dd:not(.hash), .lead"), soft: worst("p, .soft, .hash, small, dt")};
}"""


@dataclass
class Seen:
    """A page that is open, and what it did meanwhile."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Open = Callable[..., AbstractContextManager[Seen]]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start a browser without a window; where there is none the tests are skipped, and fail where one is promised."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("EDGEKD_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    with sync_api.sync_playwright() as playwright:
        if program is None and not Path(playwright.chromium.executable_path).is_file():
            why = "no Chromium here: install it, or `make browser`; EDGEKD_CHROMIUM names its program"
            pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
        found = playwright.chromium.launch(executable_path=program)
        yield found
        found.close()


@pytest.fixture(scope="module")
def open_page(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Return a function that shows a report on a screen of this width."""

    @contextmanager
    def show(report: Report, *, width: int = 1280, dark: bool = False) -> Iterator[Seen]:
        file = tmp_path_factory.mktemp("page") / "report.html"
        file.write_text(Html().render(report, judge(report, BUDGETS, MadeBy(version="1"))), encoding="utf-8")
        scheme: Any = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.complaints.append(f"dialog: {dialog.message}"))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(file.as_uri())
        yield seen
        context.close()

    return show


@pytest.fixture(scope="module")
def whole(reports: ModuleType) -> Report:
    """Return a report with everything that a page can show."""
    return reports.detailed(reports.report())


def test_the_page_is_quiet_and_alone(open_page: Open, whole: Report) -> None:
    """Nothing on the console, no request but for the page itself and the pictures that it carries."""
    with open_page(whole) as seen:
        assert seen.complaints == []
        assert [url[:5] for url in seen.requests if not url.startswith("data:image/jpeg")] == ["file:"]


def test_every_chart_and_picture_is_drawn(open_page: Open, whole: Report) -> None:
    """Accuracy, losses, accuracy against latency, the distribution, the session: each large enough, with lines and words."""
    with open_page(whole) as seen:
        sizes = seen.page.eval_on_selector_all(
            "figure svg",
            "all => all.map(svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height, "
            "svg.querySelectorAll('path').length, svg.querySelectorAll('text').length])",
        )
        assert len(sizes) == 5
        assert all(width > 300 and height > 180 and paths > 5 and texts > 3 for width, height, paths, texts in sizes)
        names = seen.page.eval_on_selector_all("figure [role=img]", "all => all.map(e => e.getAttribute('aria-label'))")
        assert len(names) == 5
        assert any(name.startswith("Accuracy against latency") for name in names)
        pictures = seen.page.eval_on_selector_all(
            ".flips img",
            "all => Promise.all(all.map(i => { return i.decode().then(() => [i.naturalWidth, i.alt]); }))",
        )
        assert pictures
        assert all(width > 10 and alt for width, alt in pictures)


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_scrolls_sideways(open_page: Open, whole: Report, width: int) -> None:
    """On a phone, a tablet and a desk the page is as wide as its screen; wide tables scroll by themselves."""
    with open_page(whole, width=width) as seen:
        seen.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        inside = seen.page.eval_on_selector_all(
            "p, h1, h2, li, dd, figure", "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
        )
        assert inside <= width


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_by_day_and_by_night(open_page: Open, whole: Report, dark: bool) -> None:
    """Contrast of at least 7 for text and 4.5 for the soft one (WCAG AAA and AA), on a page that is light or dark as asked."""
    with open_page(whole, dark=dark) as seen:
        found = seen.page.evaluate(CONTRAST)
        assert found["back"] < 0.05 if dark else found["back"] > 0.8
        assert found["text"] >= 7
        assert found["soft"] >= 4.5
        drawn = seen.page.eval_on_selector("figure svg text", "e => getComputedStyle(e).fill")
        assert drawn.startswith("rgb(")


def test_on_paper_nothing_is_hidden(open_page: Open, whole: Report) -> None:
    """What is folded on the screen is printed, and fits the sheet."""
    with open_page(whole, width=794) as seen:
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 794
        assert len(seen.page.pdf(format="A4")) > 20_000


def test_the_keyboard_reaches_everything(open_page: Open, whole: Report) -> None:
    """The first stop skips to the verdict; tables that scroll, folds and links are stops, each with a name."""
    with open_page(whole, width=375) as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_function("location.hash === '#verdict'")
        stops = seen.page.eval_on_selector_all(".wide", "all => all.map(e => [e.tabIndex, e.getAttribute('aria-label')])")
        assert stops
        assert all(index == 0 and name for index, name in stops)
        seen.page.focus("#verdict summary >> nth=0")
        before = seen.page.eval_on_selector("#verdict details", "e => e.open")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_function("was => document.querySelector('#verdict details').open !== was", arg=before)
        targets = seen.page.eval_on_selector_all(
            "nav a", "all => all.map(a => !!document.querySelector(a.getAttribute('href')))"
        )
        assert targets
        assert all(targets)


def test_a_screen_reader_finds_its_way(open_page: Open, whole: Report) -> None:
    """One main heading, no level left out, a language, header cells that say what they head, no picture without words."""
    with open_page(whole) as seen:
        assert seen.page.get_attribute("html", "lang") == "en"
        levels = seen.page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => e.tagName)")
        assert levels[0] == "H1"
        assert set(levels[1:]) == {"H2"}
        assert seen.page.locator("thead th:not([scope=col])").count() == 0
        assert seen.page.locator("img:not([alt]), svg:not([aria-hidden])").count() == 0


def test_a_script_that_got_in_would_not_run(open_page: Open, whole: Report) -> None:
    """Even if a script or a style element were smuggled into the page, the policy stops it."""
    with open_page(whole) as seen:
        ran = seen.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.ran = 1";
              const style = document.createElement("style");
              style.textContent = "body { display: none }";
              document.body.append(script, style);
              return [window.ran === undefined, getComputedStyle(document.body).display];
            }"""
        )
        assert ran == [True, "block"]
        assert len(seen.complaints) == 2
        assert all("Content Security Policy" in text for text in seen.complaints)


def test_a_hundred_hostile_names_do_nothing(open_page: Open, reports: ModuleType) -> None:
    """As classes, files, artifacts, devices and recipes: no dialog, no request, no new element, every name shown as text."""
    names = reports.hundred_hostile()
    assert len(set(names)) == 100
    count = "document.body.getElementsByTagName('*').length"
    with open_page(reports.detailed(reports.report(), names=tuple(f"class {i}" for i in range(100)))) as seen:
        elements = seen.page.evaluate(count)
    with open_page(reports.detailed(reports.report(hostile=names[0]), names=names)) as seen:
        seen.page.wait_for_timeout(200)
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith(("file:", "data:image/jpeg"))] == []
        assert seen.page.evaluate(count) == elements
        assert seen.page.evaluate("typeof window.pwned") == "undefined"
        assert seen.page.locator("#classes tbody th", has_text="<script>").count() > 0
