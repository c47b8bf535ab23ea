"""Seeds for other programs: CSV, LaTeX and JSON, with numbers in full."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pyro_sri.config import SRIConfig
from pyro_sri.evaluation.summary import Summary, summaries
from pyro_sri.runs import Run
from pyro_sri.study.seeds import to_csv, to_latex, to_plain

TINY = 1.2345678912345e-17  # a number that must not be rounded


def some() -> list[Summary]:
    """Two seeds of one configuration, one of another."""
    names = ["first", "second", "other_100%"]
    configs = [{"seed": 0}, {"seed": 1}, {"seed": 0, "num_slots": 5}]
    runs = [Run(Path(name), SRIConfig(preset="p", dataset="d", **c)) for name, c in zip(names, configs, strict=True)]
    shared: dict[str, Any] = {"data": "d.h5", "split": "test", "num_images": 4, "mse_stderr": 0.25}
    found = [
        shared | {"training_seed": 0, "mse": 0.5, "bpd": -TINY},
        shared | {"training_seed": 1, "mse": 0.7, "bpd": None, "bpd_reason": "none"},
        shared | {"training_seed": 0, "mse": 0.75, "bpd": 3.0},
    ]
    return summaries(runs, names, found)


def test_csv_has_everything_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(some()))))
    assert [(row["configuration"], row["metric"]) for row in rows] == [
        ("p, num_slots 9", "mse"),
        ("p, num_slots 9", "bpd"),
        ("other_100%", "mse"),
        ("other_100%", "bpd"),
    ]
    mse, bpd, other, _ = rows
    assert float(mse["mean"]) == pytest.approx(0.6)
    assert float(mse["standard deviation"]) == pytest.approx(0.02**0.5)
    assert (mse["seed 0"], mse["seed 1"], mse["missing"], mse["runs"]) == ("0.5", "0.7", "0", "first second")
    assert (bpd["mean"], bpd["standard deviation"], bpd["seed 1"], bpd["missing"]) == (repr(-TINY), "", "", "1")
    assert (other["mean"], other["standard deviation"], other["standard error over images"]) == ("0.75", "", "0.25")


def test_csv_of_some_metrics() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(some(), ["bpd"]))))
    assert [row["metric"] for row in rows] == ["bpd", "bpd"]


def test_json_says_the_same() -> None:
    group, other = json.loads(json.dumps(to_plain(some())))
    assert group["seeds"] == [0, 1]
    assert group["metrics"]["mse"]["values"] == [0.5, 0.7]
    assert group["metrics"]["bpd"] == {
        "mean": -TINY,
        "standard_deviation": None,
        "values": [-TINY],
        "seeds": [0],
        "missing": 1,
    }
    assert other["configuration"] == "other_100%"
    assert "no_mean" not in other


def test_latex_has_a_column_for_each_configuration() -> None:
    text = to_latex(some(), ["mse", "bpd", "never_measured"])
    assert r"mse & 0.6 $\pm$ 0.14 & 0.75 \\" in text
    assert r"other\_100\%" in text
    assert "never" not in text
    assert text.count("{tabular}") == 2
    assert "1 or 2 seeds" in text
