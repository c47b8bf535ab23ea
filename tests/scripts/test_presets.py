"""Every preset works from one end to the other at a tiny size: a new one is tested by being listed.

Presets that are built of the same parts as an earlier one are slow tests.
"""

import json

import pytest
import torch

from pyro_sri.checkpoints import load_checkpoint
from pyro_sri.presets import PRESETS
from pyro_sri.runs import find_run
from pyro_sri.scripts.bench import _stages
from pyro_sri.scripts.main import run
from pyro_sri.training.step import TrainingStep
from support.systems import each_preset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, so that presets share the data they make."""
    return tmp_path_factory.mktemp("presets")


@pytest.mark.parametrize("preset", each_preset())
def test_a_preset_trains_resumes_to_the_bit_evaluates_and_samples(preset, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    path = f"runs/{preset}"
    run(["train", preset, "--tiny", "--out", path, "--steps", "2"])
    run(["train", preset, "--tiny", "--out", path, "--steps", "3", "--resume"])
    trained = find_run(path)
    checkpoint = load_checkpoint(trained.checkpoint("last"))
    assert checkpoint["step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint["objective"].values())
    run(["train", preset, "--tiny", "--out", f"whole/{preset}", "--steps", "3"])
    whole = load_checkpoint(find_run(f"whole/{preset}").checkpoint("last"))
    for name, tensor in checkpoint["objective"].items():
        assert torch.equal(tensor, whole["objective"][name]), name

    logged = [line for line in trained.log() if "loss" in line][-1]
    for name, geco in trained.load_module("last").elbo.controllers().items():
        assert logged[name] == pytest.approx(geco.weight.item())

    run(["evaluate", path, "--iwae-samples", "2"])
    metrics = json.loads((place / path / "evaluation" / "metrics.json").read_text())
    for name in ("ari_fg", "ari", "ari_fg_attention", "mse", "nll", "kl", "bpd", "bpd_with_cross", "iwae_bpd", "beta"):
        assert isinstance(metrics[name], float) or metrics[f"{name}_reason"]
    assert metrics["num_images"] == 2

    run(["sample", path, "--num", "2", "--out", f"{path}/samples.png"])
    assert (place / path / "samples.png").stat().st_size > 0
    capsys.readouterr()


@pytest.mark.parametrize("preset", PRESETS)
def test_bench_knows_the_parts_of_a_preset(preset):
    step = TrainingStep(*PRESETS[preset].config.tiny().build())
    stages = _stages(step)
    assert (
        sum(p.numel() for p in step.parameters())
        <= sum(p.numel() for m in stages.values() for p in m.parameters()) + 100
    )
