from pathlib import Path

import pytest

from pyro_sri import load, runs
from pyro_sri.data.making import make_dataset
from pyro_sri.evaluation import evaluate
from pyro_sri.scripts.ship_weights import ship
from pyro_sri.training.loop import train
from support.training import tiny


def test_the_shipped_weights_separate_new_scenes(tmp_path: Path) -> None:
    """On scenes that were never seen before, neither in training nor when the weights were chosen."""
    make_dataset("towers", tmp_path / "new.h5", train=0, val=0, test=64, seed=123)
    metrics = evaluate(*load("sri-quick"), tmp_path / "new.h5", iwae_images=0)
    assert metrics["ari_fg"] > 0.9
    assert metrics["ari"] > 0.93
    assert metrics["mse"] < 0.002
    assert metrics["order_consistency"] > 0.8
    assert metrics["structure_accuracy"] > 0.8


def test_shipping_a_run(tetrominoes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tiny(tetrominoes), tmp_path / "run")
    monkeypatch.setattr(runs, "WEIGHTS", tmp_path / "weights")
    target = ship(run.path)
    assert target == tmp_path / "weights" / "sri-quick"
    shipped = runs.find_run("sri-quick")
    assert shipped.config.data is None
    assert shipped.step == run.step
    assert shipped.log() == run.log()
    model, _ = shipped.load()
    for ours, theirs in zip(model.parameters(), run.load()[0].parameters(), strict=True):
        assert ours.equal(theirs)
    assert str(tetrominoes) not in (target / "config.yaml").read_text()
