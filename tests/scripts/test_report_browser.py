"""The page of `report` in a real browser: it loads, sorts, zooms, fits a phone, and is readable in the dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pyro_sri.data.making import make_dataset
from pyro_sri.report import gallery, subjects
from pyro_sri.report.gallery import Exhibit
from pyro_sri.runs import Run
from pyro_sri.scripts import report as report_script
from support.browser import BINARY, Browser
from support.reports import METRICS, few_exhibits, make_run

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no Chromium: install chromium or google-chrome")

EVIL = "<img src=x onerror=document.title='taken'><script>"
SMALLEST_TEXT = 11  # CSS pixels
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3
UP = "\N{NO-BREAK SPACE}↑"
TABLE = "document.querySelector('#numbers table')"
UNFOLD = "document.querySelectorAll('details').forEach(fold => fold.open = true)"
OPEN = "document.querySelector('dialog').open"

# Of every element with a text of its own: the text, its font's size, and the colours of its ink and its paper.
TEXTS = """(() => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const mix = colours => {
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const papers = element => element === null ? []
    : [...papers(element.parentElement), getComputedStyle(element).backgroundColor];
  const own = element => [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data).join("");
  return [...document.body.querySelectorAll("*")]
    .filter(element => own(element).trim() && element.getClientRects().length)
    .map(element => ({ text: own(element).trim(), size: parseFloat(getComputedStyle(element).fontSize),
      ink: mix([...papers(element), getComputedStyle(element).color]), paper: mix(papers(element)) }));
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: one with every picture, one with missing metrics and a name made to break pages, and a third."""
    folder = tmp_path_factory.mktemp("page")
    make_dataset("tetrominoes", folder / "data.h5", size=32, train=4, val=4, test=4, seed=3)
    full = make_run(folder / "full", folder / "data.h5", METRICS | {"ari_fg": 0.5, "ari": 0.7, "mse": 10.5})
    evil = make_run(folder / EVIL, None, METRICS | {"ari_fg": None, "mse": None}, batch_size=4)
    third = make_run(folder / "third", None, METRICS | {"ari_fg": -0.25, "mse": 9.5}, batch_size=8)

    def exhibits(run: Run, *given: Any, **options: Any) -> Iterator[Exhibit]:
        return (gallery.gallery if run.path == full.path else few_exhibits)(run, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects, "gallery", exhibits)
        report_script.report(tuple(str(run.path) for run in (full, evil, third)), folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, page: Path) -> Browser:
    """With the page as it is when it opens on a desk."""
    started.problems.clear()
    started.viewport(1200)
    started.media()
    started.open(page)
    started.evaluate(UNFOLD)
    return started


def column(browser: Browser, number: int) -> list[str]:
    """What stands in a column of the table of runs."""
    return browser.evaluate(f"[...{TABLE}.tBodies[0].rows].map(row => row.children[{number}].textContent)")


def header(number: int) -> str:
    return f"#numbers th:nth-child({number + 1}) button"


def contrast(ink: list[float], paper: list[float]) -> float:
    """The contrast ratio of WCAG 2.2 between two colours, 0 to 255."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(ink), luminance(paper)))
    return (bright + 0.05) / (dark + 0.05)


def test_it_loads_without_a_complaint_or_a_request(browser: Browser) -> None:
    assert browser.evaluate("document.readyState") == "complete"
    assert browser.evaluate("[...document.querySelectorAll('figure img')].every(image => image.naturalWidth > 0)")
    assert browser.evaluate("[...document.querySelectorAll('figure img')].every(image => image.alt)")
    assert browser.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert browser.problems == []


def test_the_driver_sees_complaints_and_requests(browser: Browser, tmp_path: Path) -> None:
    """Or the test above could not fail."""
    broken = tmp_path / "broken.html"
    script = "console.error('oh'); alert('stop'); undefined.x"
    broken.write_text(f"<!DOCTYPE html><img src='http://127.0.0.1:9/x.png'><script>{script}</script>")
    browser.open(broken)
    kinds = {problem.split(":")[0] for problem in browser.problems}
    runtime = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
    assert kinds >= {"Network.requestWillBeSent", "Page.javascriptDialogOpening"} | runtime
    with pytest.raises(AssertionError):
        browser.evaluate("undefined.x")


def test_names_are_text(browser: Browser) -> None:
    assert EVIL in browser.evaluate("document.querySelector('h1').textContent")
    assert EVIL in column(browser, 0)
    assert EVIL in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_a_click_on_a_header_sorts(browser: Browser) -> None:
    names = browser.evaluate(f"[...{TABLE}.tHead.rows[0].cells].map(cell => cell.textContent)")
    mse = next(i for i, name in enumerate(names) if "(mse)" in name)
    assert column(browser, mse) == ["10.5", "–", "9.5"]
    browser.click(header(mse))
    assert column(browser, mse) == ["9.5", "10.5", "–"]  # as numbers; what is missing comes last
    assert column(browser, 0) == ["third", "full", EVIL]
    browser.click(header(mse))
    assert column(browser, mse) == ["10.5", "9.5", "–"]
    assert browser.evaluate(f"[...{TABLE}.tHead.rows[0].cells].map(cell => cell.ariaSort)[{mse}]") == "descending"
    browser.evaluate(f"document.querySelector('{header(0)}').focus()")
    browser.press("Enter")
    assert column(browser, 0) == [EVIL, "full", "third"]
    assert browser.evaluate(f"{TABLE}.querySelectorAll('[aria-sort]').length") == 1
    assert browser.problems == []


def test_sorting_stays_under_the_headings(browser: Browser) -> None:
    table = "document.querySelectorAll('details:has(#metrics) .wide table')[0]"
    rows = f"[...{table}.rows].map(row => row.cells[0].textContent)"
    before = browser.evaluate(rows)
    assert before[1:5] == ["Segmentation", f"ari_fg{UP}", f"ari{UP}", "Reconstruction and likelihood"]
    for turn in (f"ari{UP}", f"ari_fg{UP}"):
        browser.click("details:has(#metrics) .wide th button")
        after = browser.evaluate(rows)
        assert (after[1], after[2], after[4]) == (before[1], turn, before[4])
        assert sorted(after) == sorted(before)


def test_a_picture_zooms_and_closes(browser: Browser) -> None:
    picture = "#reconstructions ~ .runs .zoom"
    assert not browser.evaluate(OPEN)
    browser.click(picture)
    assert browser.evaluate(OPEN)
    same = f"document.querySelector('dialog img').src === document.querySelector('{picture} img').src"
    assert browser.evaluate(same)
    wider = "document.querySelector('dialog img').clientWidth >= document.querySelector('figure img').naturalWidth"
    assert browser.evaluate(wider)
    browser.click("dialog img")
    assert not browser.evaluate(OPEN)
    browser.evaluate(f"document.querySelector('{picture}').focus()")
    for close in ("Escape", "Enter"):
        browser.press("Enter")
        assert browser.evaluate(OPEN)
        browser.press(close)
        assert not browser.evaluate(OPEN)
    assert browser.evaluate(f"document.activeElement === document.querySelector('{picture}')")
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert browser.problems == []


def test_nothing_moves_for_those_who_asked_for_it(browser: Browser) -> None:
    shown = "[...document.querySelectorAll('picture img')].map(image => image.currentSrc.slice(0, 14))"
    assert set(browser.evaluate(shown)) == {"data:image/gif"}
    browser.media(prefers_reduced_motion="reduce")
    browser.open(Path(browser.evaluate("decodeURIComponent(location.pathname)")))
    assert set(browser.evaluate(shown)) == {"data:image/png"}
    browser.evaluate(UNFOLD)
    browser.click("picture")  # a film starts in full size when it is asked for
    assert browser.evaluate("document.querySelector('dialog img').src").startswith("data:image/gif")


def test_it_fits_a_phone(browser: Browser, page: Path) -> None:
    browser.viewport(390, mobile=True)
    browser.open(page)
    browser.evaluate(UNFOLD)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    scrolls = "element => element.scrollWidth > element.clientWidth"
    assert browser.evaluate(f"[...document.querySelectorAll('.wide')].some({scrolls})")  # in a box of its own
    texts = browser.evaluate(TEXTS)
    assert len(texts) > 100
    assert [text for text in texts if text["size"] < SMALLEST_TEXT] == []


def test_numbers_are_whole_on_a_phone(browser: Browser, page: Path) -> None:
    browser.viewport(390, mobile=True)
    browser.open(page)
    browser.evaluate(UNFOLD)
    broken = """[...document.querySelectorAll("td, th, dd, strong")].flatMap(element => {
      const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), found = [];
      while (walk.nextNode())
       for (const match of walk.currentNode.data.matchAll(/(?<![\\w\\/.-])[-+\\d][\\d.,e+-]*/g)) {
        const range = document.createRange();
        range.setStart(walk.currentNode, match.index);
        range.setEnd(walk.currentNode, match.index + match[0].length);
        const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
        if (/^[-+]?\\d[\\d.,]*(e[-+]?\\d+)?$/.test(match[0]) && lines.size > 1) found.push(match[0]);
      }
      return found;
    })"""
    assert browser.evaluate(broken) == []


def test_what_is_folded_opens_on_a_click_and_by_its_link(browser: Browser, page: Path) -> None:
    browser.open(page)
    folded = "[...document.querySelectorAll('details.fold')].filter(fold => !fold.open).length"
    count = browser.evaluate(folded)
    assert count > 5
    browser.click("#commands")
    assert browser.evaluate(folded) == count - 1
    browser.click("nav a[href='#configuration']")
    browser.evaluate("new Promise(done => setTimeout(done, 100))")
    assert browser.evaluate(folded) == count - 2
    assert browser.evaluate("document.querySelector('details:has(#configuration)').open")
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate(folded) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_by_day_and_by_night(browser: Browser, scheme: str) -> None:
    browser.media(prefers_color_scheme=scheme)
    texts = browser.evaluate(TEXTS)
    assert len(texts) > 100
    paper = max(texts[0]["paper"])
    assert paper < 64 if scheme == "dark" else paper > 192
    faint = [text for text in texts if contrast(text["ink"], text["paper"]) < LEAST_CONTRAST]
    assert faint == []


def test_a_screenshot_of_the_whole_page(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "tall.html").write_text("<!DOCTYPE html><body style='margin: 0; height: 2000px; background: #0f0'>")
    browser.open(tmp_path / "tall.html")
    browser.screenshot(tmp_path / "tall.png", full_page=True)
    with Image.open(tmp_path / "tall.png") as picture:
        assert picture.size == (1200, 2000)
        assert picture.convert("RGB").getpixel((600, 1999)) == (0, 255, 0)
