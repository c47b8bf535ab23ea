"""A report shows what it is told and obeys none of it, whichever file a text comes from."""

import base64
import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pyro_sri.report import subjects
from pyro_sri.report.gallery import Exhibit, Images
from pyro_sri.report.html import SCRIPT
from pyro_sri.runs import Run
from pyro_sri.scripts import report as report_script
from support import small_world
from support.browser import BINARY, Browser
from support.small_world import DATA, METRICS, RUN, make_run, write_metrics

HOSTILE = [
    "<script>window.taken = true; alert(1)</script>",
    "</script><script>window.taken = true</script>",
    "<!--<script>window.taken = true;",
    "--><svg/onload=window.taken=true>",
    "'\"><img src=x onerror=window.taken=true>",
    "</style></title></textarea><iframe srcdoc='<script>parent.taken=true</script>'>",
    "<a href=javascript:window.taken=true autofocus onfocus=window.taken=true>",
    "&lt;script&gt;window.taken=true&lt;/script&gt;",
    "<meta http-equiv=refresh content='0;url=https://example.org'><base href=//example.org>",
    "<link rel=stylesheet href=//example.org/a.css><style>@import url(//example.org)</style>",
    "style=background:url(//example.org)`${window.taken=true}`{{7*7}}",
    "\u202eright to left\u2066 \x00 nul \x1b[31m red \ufeff \U0001f600",
]
ALL = " ".join(HOSTILE)
# No element of a page that could fetch, frame, submit or animate anything; "script" and "style" are counted.
FORBIDDEN = {"iframe", "object", "embed", "form", "input", "base", "link", "svg", "math", "audio", "video", "template"}


STYLE, OWN_SCRIPT = (re.compile(f"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in ("style", "script"))


class Reader(HTMLParser):
    """A page's elements with their attributes, its texts and its comments."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.comments: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def assert_harmless(source: str) -> str:
    """Nothing of the page runs but its own script, and nothing leads out of it; returns what it says."""
    page = Reader(source)
    tags = [tag for tag, _ in page.elements]
    assert source.count("<script") == source.count("</script") == tags.count("script") == 1
    assert source.count("<style") == source.count("</style") == tags.count("style") == 1
    assert [match[1] for match in OWN_SCRIPT.finditer(source)] == [SCRIPT]
    assert not FORBIDDEN & set(tags)
    assert page.comments == []
    assert not re.search(r"url\(|@import|//", STYLE.search(source)[1])
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcdoc", "formaction")]
        for name in {"src", "srcset", "href"} & attributes.keys():
            assert re.match(r"data:image/(png|gif);base64,|#[\w-]+$", attributes[name]), attributes[name]
        assert re.fullmatch(r"--share: [0-9.]+", attributes.get("style", "--share: 0"))
        assert attributes.get("http-equiv", "Content-Security-Policy") == "Content-Security-Policy", tag
    return " ".join(" ".join(page.texts).split())


def few_exhibits(run: Run, images: Images | None, **_: Any) -> Iterator[Exhibit]:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    yield Exhibit("samples", "Samples", "" if images is None else images.origin, [pixels])
    yield Exhibit("walk", "Walks", "", [pixels, pixels + 9], 50)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(subjects, "gallery", few_exhibits)
    monkeypatch.chdir(tmp_path)
    return small_world.settle(tmp_path)


# Through which files a text gets into a page. Each puts it there and names the runs to report on.


def through_run_name(text: str) -> list[str]:
    make_run(Path(text), Path(DATA))
    return [text]


def through_data_path(text: str) -> list[str]:
    make_run(Path("other"), Path(text))
    return ["other", RUN]


def through_configuration(text: str) -> list[str]:
    make_run(Path("other"), Path(DATA), preset=text, dataset=text, start_from=text)
    return ["other", RUN]


def through_metrics(text: str) -> list[str]:
    make_run(Path("other"), Path(DATA))
    hostile = {text[:99]: 1.0, "frechet_reason": text, "data": text, "split": text, "checkpoint": text, "preset": text}
    hostile |= {"ari": None, "ari_reason": text, "structure_rule": text, "frechet_features": text, "mse": text}
    write_metrics(Path("other"), METRICS | hostile)
    return ["other", RUN]


def through_attributes(text: str) -> list[str]:
    with h5py.File(DATA, "r+") as file:
        file.attrs["generator"] = file.attrs["seed"] = text
    return [RUN]


def through_source(text: str) -> list[str]:
    with h5py.File(DATA, "r+") as file:
        file.attrs["source"] = text
    return [RUN]


def names(texts: Sequence[str]) -> list[str]:
    """Texts as names of files, a few in each, as long as names may be."""
    kept = [text.replace("/", "\u2215") for text in texts]
    return [" ".join(kept[start : start + 2]) for start in range(0, len(kept), 2)]


def written(text: str) -> str:
    """As YAML and HDF5 can hold it."""
    return re.sub("[\x00\x1b\ufeff]", "", text)


@pytest.mark.parametrize(
    ("door", "texts"),
    [
        (through_run_name, [written(name) for name in names(HOSTILE)]),
        (through_data_path, [written(name) for name in names(HOSTILE)]),
        (through_configuration, [written(ALL)]),
        (through_metrics, [ALL]),
        (through_attributes, [written(ALL)]),
        (through_source, [written(ALL)]),
    ],
)
def test_a_page_obeys_nothing(folder: Path, door: Callable[[str], list[str]], texts: list[str]) -> None:
    for number, text in enumerate(texts):
        report_script.report(tuple(door(text)), Path(f"{number}.html"))
        said = assert_harmless(Path(f"{number}.html").read_text())
        assert " ".join(text.split()) in said  # it is all there, as text
        shutil.rmtree("other", ignore_errors=True)


def test_names_that_the_user_gives_are_texts(folder: Path) -> None:
    for name in names(HOSTILE[:10]):
        shutil.copy(DATA, f"{name}.h5")
        report_script.report((RUN,), Path(f"{name}.html"), Path(f"{name}.h5"))
        said = assert_harmless(Path(f"{name}.html").read_text())
        assert shlex.quote(f"{name}.h5") in said
        assert shlex.quote(f"{name}.html") in said


def test_a_page_may_run_its_own_script_and_load_nothing(folder: Path) -> None:
    report_script.report((RUN,), Path("page.html"))
    source = Path("page.html").read_text()
    (policy,) = [a["content"] for tag, a in Reader(source).elements if "http-equiv" in a]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    inside = OWN_SCRIPT.search(source)[1]
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert source.index("Content-Security-Policy") < source.index("<style>") < source.index("<script>")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("there is no Chromium: install chromium or google-chrome")
    with Browser() as browser:
        yield browser


def test_a_browser_obeys_nothing(folder: Path, browser: Browser) -> None:
    runs = []
    for number, text in enumerate(HOSTILE):
        through_metrics(text)
        runs.append(f"{number} {written(*names([text]))}")
        Path("other").rename(runs[-1])
    through_attributes(written(ALL))
    report_script.report((*runs, *through_configuration(written(ALL))), Path("page.html"))
    browser.open(Path("page.html"))
    assert browser.evaluate("document.readyState") == "complete"
    assert browser.evaluate("window.taken") is None
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate("document.querySelectorAll('iframe, base, link, svg, [onerror], [onload]').length") == 0
    browser.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    browser.click("details:has(#runs) th button")  # its own script does run
    assert browser.evaluate("document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.problems == []


def test_the_policy_stops_what_gets_past_the_escapes(folder: Path, browser: Browser) -> None:
    """As if the page had escaped nothing."""
    report_script.report((RUN,), Path("page.html"))
    source = Path("page.html").read_text()
    Path("broken.html").write_text(source.replace("<main>", f"<main>{HOSTILE[0]}{HOSTILE[4]}{HOSTILE[3]}"))
    browser.problems.clear()
    browser.open(Path("broken.html"))
    assert browser.evaluate("window.taken") is None
    assert all("Content Security Policy" in problem for problem in browser.problems)
    assert browser.problems
    browser.problems.clear()
