import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_sri import runs
from pyro_sri.evaluation.summary import BELOW_0
from pyro_sri.report import subjects
from pyro_sri.report.subjects import steps_before
from pyro_sri.scripts import report as report_script
from pyro_sri.scripts.report import report, short_names
from pyro_sri.system.errors import UserError
from support.reports import EVIL, METRICS, few_exhibits, make_run


class Reader(HTMLParser):
    """The words, pictures, links and table rows of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.inside: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.classes: list[str] = []
        self.titles: list[str] = []
        self.feed(self.source)
        self.text = " ".join(self.words)
        self.pictures = [link for link in self.links if not link.startswith("#")]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.classes += given.get("class", "").split()
        self.titles += [given["title"]] if "title" in given else []
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"script", "style"} & set(self.inside):
            self.words.append(data)

    def row(self, first: str) -> list[str]:
        """The words of the table row that starts with this one."""
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", self.source, re.DOTALL)
        shown = [re.sub(r"<[^>]+>", "|", row).strip("|") for row in rows]
        return next([word for word in row.split("|") if word] for row in shown if row.startswith(first))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "gallery", few_exhibits)


def report_on(out: Path, *run: runs.Run) -> Reader:
    report(tuple(str(r.path) for r in run), out)
    return Reader(out)


def test_one_run(tmp_path: Path, tetrominoes: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "lonely", tetrominoes, METRICS)
    out = tmp_path / "page.html"
    page = report_on(out, run)
    assert str(out) in capsys.readouterr().out
    assert page.words[0] == "lonely - pyro-sri"
    assert "tetrominoes (generated, seed 3), split test" in page.text
    assert "7 of 500000 steps" in page.text
    assert page.row("ari_fg")[:2] == ["ari_fg\N{NO-BREAK SPACE}↑", "0.9123"]
    assert page.row("mse")[:2] == ["mse\N{NO-BREAK SPACE}↓", "0.01"]
    assert page.row("frechet")[1:3] == ["–", "no features &lt;here&gt;"]
    assert page.row("brand_new")[:2] == ["brand_new", "3"]
    assert page.row("data")[1] in ("generated: tetrominoes.h5", str(tetrominoes))
    assert "adjusted Rand index over foreground pixels, decoder masks (1 is perfect)" in page.titles
    assert page.row("dataset") == ["dataset", "tetrominoes", "generated"]
    assert page.row("num_slots") == ["num_slots", "3"]
    assert f"pyro-sri evaluate {run.path} --num-images 16" in page.text
    assert "pyro-sri train" not in page.text  # there is no preset of that name
    assert f"pyro-sri report {run.path} --out {out}" in page.text
    assert "differs" not in page.classes
    assert not re.search(r"<td[^>]*>(<span[^>]*>)?<strong>", page.source)


def test_metrics_stand_under_headings_and_counts_in_a_matrix(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", tetrominoes, METRICS))
    headings = re.findall(r'<tr class="heading"><th[^>]*><span>(.*?)</span>', page.source)
    kl = "KL divergences, in nats per image"
    assert headings == ["Segmentation", "Reconstruction and likelihood", kl, "Generated scenes", "Other metrics"]
    assert page.source.index("Generated scenes") < page.source.index(">frechet") < page.source.index("Other metrics")
    assert page.row("mse")[1:3] == ["0.01", "s.e. 0.00012"]
    assert "mse_stderr" not in page.source
    assert "count_2_found_1" not in page.source
    assert page.row("objects") == ["objects", "0 found", "1 found"]
    matrix = re.search(r'<table class="matrix">.*?</table>', page.source, re.DOTALL)
    assert matrix is not None
    assert re.findall(r"--share: ([\d.]+)\">(\d+)<", matrix[0]) == [
        ("0.833", "5"),
        ("0.167", "1"),
        ("0.000", "0"),
        ("1.000", "10"),
    ]


def test_the_page_stands_alone(tmp_path: Path, tetrominoes: Path) -> None:
    """With every picture there is."""
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", tetrominoes))
    kinds = set()
    for link in page.pictures:
        kind, data = link.split(",", 1)
        kinds.add(kind)
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 0
    assert kinds == {"data:image/png;base64", "data:image/gif;base64"}
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert len(anchors) == len(set(anchors))
    assert page.source.count("<section>") == 4 + len(page.pictures) == len(re.findall("<h2 ", page.source))
    assert all(page.source.count(f'id="{anchor}"') == 1 for anchor in anchors)
    assert not re.search(r"(src|href|srcset)=\"?(http|//)|url\(|@import|<link", page.source)


def test_what_readers_look_for_first_stands_first(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", tetrominoes, METRICS))
    anchors = re.findall(r'<h2 id="(.*?)"', page.source)
    assert anchors[:2] == ["reconstructions", "samples"]  # open; the rest is folded
    folded = re.findall(r'<details class="fold"><summary><h2 id="(.*?)"', page.source)
    assert anchors[2:] == folded
    assert folded == ["metrics", "runs", "story", "walk", "walk-moving", "curves", "configuration", "commands"]
    links = [link for link in page.links if link.startswith("#")]
    assert links == ["#reconstructions", "#samples", "#metrics", "#runs", "#configuration", "#commands"]
    lead, numbers = page.source.index('<p class="lead">'), page.source.index('class="numbers"')
    assert lead < numbers < page.source.index("<nav>") < page.source.index('id="reconstructions"')
    film = re.search(r"<picture>.*?</picture>", page.source, re.DOTALL)
    assert film is not None
    assert 'media="print, (prefers-reduced-motion: reduce)"' in film[0]
    assert film[0].count("data:image/png") == film[0].count("data:image/gif") == 1


def test_a_run_without_evaluation_data_and_log(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    poor = make_run(tmp_path / "a run", tmp_path / "gone.h5")
    (poor.path / runs.LOG).unlink()
    alone = report_on(tmp_path / "alone.html", poor)
    assert "a run has not been evaluated yet" in alone.text
    assert f"pyro-sri evaluate '{poor.path}'" in alone.text
    assert "gone.h5 is missing" in alone.text
    assert "generated" in alone.text
    assert "#curves" not in alone.links
    beside = report_on(tmp_path / "beside.html", poor, make_run(tmp_path / "rich", tetrominoes))
    assert "This run has no training log." in beside.text
    assert f"Not drawn: its data file {tmp_path / 'gone.h5'} is missing." in beside.text


def test_runs_side_by_side(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    first = make_run(tmp_path / "first", tetrominoes, METRICS)
    second = make_run(tmp_path / "second", tetrominoes, METRICS | {"ari_fg": 0.5, "mse": 0.001}, batch_size=4)
    third = make_run(tmp_path / "third", None)
    report_script.main([str(run.path) for run in (first, second, third)] + ["--out", str(tmp_path / "page.html")])
    page = Reader(tmp_path / "page.html")
    assert page.row("metric") == ["metric", "first", "second", "what it is"]
    assert page.row("ari_fg")[1:3] == ["0.9123", "0.5"]
    assert re.findall(r"<strong>(.*?)</strong>", page.source) == ["0.9123", "0.001"]
    assert page.row("first") == ["first", "0.9123", "0.01"]  # the headlines
    assert page.row("third") == ["third", "–", "–"]
    assert page.row("run")[1:3] == [
        "Objects separated",
        "1 is perfect, above 0.9 is good, 0 is chance level (ari_fg)",
    ]
    assert "third has not been evaluated yet" in page.text
    assert "The runs differ in data, batch_size." in page.text
    assert page.row("batch_size ≠") == ["batch_size ≠", "32", "4", "32"]
    assert page.classes.count("differs") == 2


def test_images_from_elsewhere(tmp_path: Path, tetrominoes: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", tmp_path / "gone.h5")
    report((str(run.path),), tmp_path / "page.html", data=tetrominoes)
    page = Reader(tmp_path / "page.html")
    assert "tetrominoes (generated, seed 3), split test" in page.text
    assert f"pyro-sri report {run.path} --data {tetrominoes} --out" in page.text
    monkeypatch.setattr(report_script, "own_data_of", lambda run: tetrominoes)
    report(("sri-quick",), tmp_path / "shipped.html")  # names no data file, but its preset makes one
    assert "tetrominoes (generated, seed 3), split test" in Reader(tmp_path / "shipped.html").text


def test_seeds_stand_together(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    seeds = []
    for seed, ari in ((0, 0.5), (1, 0.8), (4, None)):
        metrics = METRICS | {"ari_fg": ari, "ari_fg_reason": "no masks", "training_seed": seed}
        seeds.append(make_run(tmp_path / f"seed{seed}", tetrominoes, metrics, seed=seed))
    other = make_run(tmp_path / "other", tetrominoes, METRICS | {"ari_fg": 0.9}, num_slots=4)
    page = report_on(tmp_path / "page.html", *seeds, other)
    header = ["metric", "tiny, num_slots 3", "3 seeds: 0, 1, 4 (seed0, seed1, seed4)", "other", "what it is"]
    assert page.row("metric") == header
    space = "\N{NO-BREAK SPACE}"
    # mean (0.5 + 0.8) / 2, standard deviation sqrt(0.15² + 0.15²)
    assert page.row("ari_fg")[1:4] == [f"0.65{space}±{space}0.21", "0.5, 0.8, – (mean of 2)", "0.9"]
    assert page.row("frechet")[1:3] == ["–", "no features &lt;here&gt;"]
    assert page.row("condition")[:5] == ["condition", "seed0", "seed1", "seed4", "other"]
    assert page.row("training_seed")[:5] == ["training_seed", "0", "1", "4", "0"]
    assert "Mean ± standard deviation" in page.text
    assert page.row("tiny, num_slots 3, mean of 3 seeds")[1] == f"0.65{space}±{space}0.21"  # among the headlines


FIVE = {"structure_accuracy": 0.5, "frechet": 0.25, "order_consistency": 0.75, "iwae_bpd": -2.5, "bpd": -2.0}


def test_five_numbers_with_what_is_good(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", tetrominoes, METRICS | FIVE))
    cards = re.findall(
        r'<div class="number"><span>(.*?)</span><strong><span class="whole">(.*?)</span>.*?</strong><p>(.*?)</p>',
        page.source,
    )
    assert [number for _, number, _ in cards] == ["0.912", "0.01", "0.5", "0.25", "0.75"]
    assert cards[0][0] == "Objects separated"
    assert "above 0.9 is good" in cards[0][2]
    assert BELOW_0 in page.text


def test_the_numbers_of_a_system_that_counts(tmp_path: Path, quick: None) -> None:
    metrics = METRICS | {"ari_fg": None, "ari_fg_reason": "no masks", "mse": "not a number", "count_accuracy": 0.5}
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", None, metrics))
    assert re.findall(r'class="number"><span>(.*?)</span>', page.source) == ["Objects counted correctly"]


def test_what_a_run_started_from_stands_on_its_card(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    make_run(tmp_path / "first", tetrominoes, start_from="nowhere")
    make_run(tmp_path / "second", tetrominoes, start_from=str(tmp_path / "first"))
    third = make_run(tmp_path / "third", tetrominoes, start_from=str(tmp_path / "second"))
    page = report_on(tmp_path / "page.html", third)
    chain = (
        f"{tmp_path / 'second'} (7 steps), which started from {tmp_path / 'first'} (7 steps), which started from "
        "nowhere (missing, so its number of steps is unknown): 14 or more steps before this run's own"
    )
    assert page.text.count(chain) == 2  # at the top and on the card
    assert steps_before(runs.open_run(tmp_path / "second")).startswith(f"{tmp_path / 'first'} (7 steps)")
    circle = make_run(tmp_path / "circle", tetrominoes, start_from=str(tmp_path / "circle"))
    assert steps_before(circle) == f"{tmp_path / 'circle'} (7 steps)"


def test_what_went_wrong_stands_at_the_top(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    metrics = METRICS | {"collapse": "the slots hold nothing"}
    page = report_on(tmp_path / "page.html", make_run(tmp_path / "run", tetrominoes, metrics))
    assert '<p class="warning">run: the slots hold nothing</p>' in page.source
    assert page.source.index('class="warning"') < page.source.index("<nav>")


def test_bits_of_a_bound_that_was_not_maximised_are_flagged(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    flag = "beta is 0.01, not 1: training did not maximise this bound"
    metrics = METRICS | {"bpd": 2.5, "bpd_stderr": 0.125, "beta": 0.01, "beta_flag": flag}
    seeds = [
        make_run(tmp_path / f"s{seed}", tetrominoes, metrics | {"training_seed": seed}, seed=seed) for seed in (0, 1)
    ]
    page = report_on(tmp_path / "one.html", seeds[0])
    assert f"s.e. 0.12; {flag}" in page.row("bpd")[1:3]
    assert page.row("beta")[1] == "0.01"
    assert flag not in " ".join(page.row("mse"))
    assert f"2.5, 2.5; {flag}" in " ".join(report_on(tmp_path / "two.html", *seeds).row("bpd"))


def test_seeds_that_do_not_compare_have_no_mean(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    made = []
    for seed, images in ((0, 16), (1, 8)):
        metrics = METRICS | {"num_images": images, "training_seed": seed}
        made.append(make_run(tmp_path / f"seed{seed}", tetrominoes, metrics, seed=seed))
    page = report_on(tmp_path / "page.html", *made)
    assert "No mean over seed0, seed1: the evaluations cannot be compared: num_images is 16 and 8" in page.text
    assert "evaluated on different images" in page.text
    assert page.row("metric") == ["metric", "seed0", "seed1", "what it is"]
    assert "Objects separated" not in page.text  # no headlines of runs that do not compare
    assert "<strong>" not in page.source


def test_the_evaluation_is_repeated_as_it_was(tmp_path: Path, tetrominoes: Path, quick: None) -> None:
    metrics = METRICS | {"split": "val", "seed": 3, "iwae_samples": 8, "data": "generated: other.h5"}
    run = make_run(tmp_path / "run", tetrominoes, metrics)
    page = report_on(tmp_path / "page.html", run)
    options = "--data other.h5 --num-images 16 --split val --iwae-samples 8 --seed 3"
    assert f"pyro-sri evaluate {run.path} {options}" in page.text


def test_everything_from_outside_is_escaped(tmp_path: Path, quick: None) -> None:
    evil = make_run(tmp_path / "<b>run", tmp_path / "<i>.h5", METRICS | {EVIL: 1.0, "data": EVIL}, preset=EVIL)
    page = report_on(tmp_path / "page.html", evil)
    assert page.source.count("<script>") == 1
    assert EVIL in page.text
    assert "<b>" not in page.source
    assert "<i>" not in page.source


def test_report_is_repeatable(tmp_path: Path, tetrominoes: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", tetrominoes)
    pages = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        report((str(run.path),))
        pages.append((tmp_path / folder / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_report_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        report((), tmp_path / "page.html")
    with pytest.raises(UserError, match=r"\.html"):
        report(("run",), tmp_path / "page.pdf")
    with pytest.raises(UserError, match="no run directory"):
        report((str(tmp_path / "nowhere"),), tmp_path / "page.html")
    (tmp_path / "page.html").write_text("precious")
    with pytest.raises(UserError, match="another --out"):
        report(("run",), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "precious"


def test_short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("x/run", "y/run", "y/other"):
        (tmp_path / folder).mkdir(parents=True)
    assert short_names(["x/run/", "y/other"]) == ["run", "other"]
    assert short_names(["x/run", "y/run"]) == ["x/run", "y/run"]
    assert short_names(["sri-preset"]) == ["sri-preset"]
