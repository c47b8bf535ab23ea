import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyro_sri import runs
from pyro_sri.config import SRIConfig
from pyro_sri.errors import UserError
from pyro_sri.scripts import report as report_script
from pyro_sri.scripts.report import report, short_names

SMALL = {"image_size": 32, "num_slots": 3, "slot_size": 8, "scene_size": 16, "init": "pytorch", "gate_init": 0.5}
EVIL = "<script>alert('&')</script>"
METRICS = {
    "ari_fg": 0.91234567,
    "mse": 0.01,
    "kl": 30.5,
    "frechet": None,
    "frechet_reason": "no features <here>",
    "brand_new": 3,
    "num_images": 16,
    "split": "test",
    "data": "generated: tetrominoes.h5",
    "seed": 0,
    "step": 7,
}


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


def make_run(path: Path, data: Path | None, metrics: dict[str, Any] | None = None, **fields: Any) -> runs.Run:
    """A run directory with untrained weights."""
    run = runs.create_run(path, SRIConfig(**{"preset": "tiny", "dataset": "tetrominoes"} | SMALL | fields, data=data))
    model, guide, objective = run.config.build()
    checkpoint = {"step": 7, "best": 0.0, "objective": objective(model, guide).state_dict(), "optimizer": {}}
    runs.save_checkpoint(run.checkpoint(), checkpoint)
    (path / runs.LOG).write_text('{"step": 1, "nll": 3.0, "beta": 1.0}\n{"step": 2, "val_nll": 2.0}\n')
    if metrics is not None:
        (path / runs.METRICS).parent.mkdir()
        (path / runs.METRICS).write_text(json.dumps(metrics))
    return run


def test_one_run(tmp_path: Path, tetrominoes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "lonely", tetrominoes, METRICS)
    out = tmp_path / "page.html"
    report((str(run.path),), out)
    assert str(out) in capsys.readouterr().out
    page = Reader(out)
    assert page.words[0] == "lonely - pyro-sri"
    assert "tetrominoes (generated, seed 3), split test" in page.text
    assert "7 of 500000 steps" in page.text
    assert page.row("ari_fg")[:3] == ["ari_fg", " ↑", "0.9123"]
    assert page.row("mse")[:3] == ["mse", " ↓", "0.01"]
    assert page.row("frechet")[2:4] == ["–", "no features &lt;here&gt;"]
    assert page.row("brand_new")[:2] == ["brand_new", "3"]
    assert page.row("data")[1] in ("generated: tetrominoes.h5", str(tetrominoes))
    assert "adjusted Rand index over foreground pixels, decoder masks (1 is perfect)" in page.titles
    assert page.row("dataset") == ["dataset", "tetrominoes", "generated"]
    assert page.row("num_slots") == ["num_slots", "3"]
    assert run.command() in page.text
    assert f"pyro-sri report {run.path} --out {out}" in page.text
    assert "differs" not in page.classes
    assert "<strong>" not in page.source


def test_the_page_stands_alone(tmp_path: Path, tetrominoes: Path) -> None:
    run = make_run(tmp_path / "run", tetrominoes)
    out = tmp_path / "page.html"
    report((str(run.path),), out)
    page = Reader(out)
    assert len(page.pictures) == 4  # curves, reconstructions, samples, samples slot by slot
    for link in page.pictures:
        kind, data = link.split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert np.asarray(picture).std() > 0
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert len(anchors) == 8
    assert all(f'id="{anchor}"' in page.source for anchor in anchors)
    assert not re.search(r"(src|href)=\"?(http|//)|url\(|@import|<link", page.source)


def test_a_run_without_evaluation_data_and_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run", tmp_path / "gone.h5")
    (run.path / runs.LOG).unlink()
    report((str(run.path),), tmp_path / "page.html")
    page = Reader(tmp_path / "page.html")
    assert "a run is not evaluated yet" in page.text
    assert f"pyro-sri evaluate '{run.path}'" in page.text
    assert "This run has no training log." in page.text
    assert "gone.h5 is not here" in page.text
    assert "generated" in page.text
    assert len(page.pictures) == 2


def test_runs_side_by_side(tmp_path: Path, tetrominoes: Path) -> None:
    first = make_run(tmp_path / "first", tetrominoes, METRICS)
    second = make_run(tmp_path / "second", tetrominoes, METRICS | {"ari_fg": 0.5, "mse": 0.001}, seed=4)
    third = make_run(tmp_path / "third", None)
    report_script.main([str(run.path) for run in (first, second, third)] + ["--out", str(tmp_path / "page.html")])
    page = Reader(tmp_path / "page.html")
    assert page.row("metric") == ["metric", "first", "second", "what it is"]
    assert page.row("ari_fg")[:4] == ["ari_fg", " ↑", "0.9123", "0.5"]
    assert re.findall(r"<strong>(.*?)</strong>", page.source) == ["0.9123", "0.001"]
    assert "third is not evaluated yet" in page.text
    assert "The runs differ in data, seed." in page.text
    assert page.row("seed ≠") == ["seed ≠", "0", "4", "0"]
    assert page.classes.count("differs") == 2


def test_values_on_different_images_do_not_compete(tmp_path: Path, tetrominoes: Path) -> None:
    names = []
    for name, images in (("first", 16), ("second", 8)):
        names.append(str(make_run(tmp_path / name, tetrominoes, METRICS | {"num_images": images}).path))
    report(tuple(names), tmp_path / "page.html")
    page = Reader(tmp_path / "page.html")
    assert "evaluated on different images" in page.text
    assert "<strong>" not in page.source


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = tmp_path / "<b>run"
    make_run(evil, tmp_path / "<i>.h5", METRICS | {EVIL: 1.0, "data": EVIL}, preset=EVIL)
    report((str(evil),), tmp_path / "page.html")
    page = Reader(tmp_path / "page.html")
    assert page.source.count("<script>") == 1
    assert EVIL in page.text
    assert "<b>" not in page.source
    assert "<i>" not in page.source


def test_report_is_repeatable(tmp_path: Path, tetrominoes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
