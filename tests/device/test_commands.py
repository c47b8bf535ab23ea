"""Every command and system on a GPU that is none: no operation is over two devices, and no training step is waited for.

`tests/training/test_device.py` asks the same of single steps, in every phase, on a device without numbers.
"""

import json
from pathlib import Path

import pytest
import torch

from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS
from pyro_sri.runs import CHECKPOINTS, METRICS
from support.fake_gpu import AVAILABLE
from support.forking import Outcome, run_command
from support.systems import uncovered

SYSTEMS = uncovered([])  # a preset of each

# All images of a size are the same file's, and a run does once what it does now and then.
SELDOM = "--validate-every 100 --picture-every 100 --checkpoint-every 100 --log-every 2 --validation-images 2"
PHASES = {"sri": "--segregation-steps 1 --prior-from 4"}
STEPS = 5  # more than those that validate
FEW = "--num-images 2 --iwae-images 1 --iwae-samples 2 --num-samples 2"

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this PyTorch has no devices that are made in Python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is; with images of every size."""
    folder = tmp_path_factory.mktemp("device")
    for size in {PRESETS[preset].config.tiny().image_size for preset in SYSTEMS}:
        make_dataset("tetrominoes", folder / f"{size}.h5", size=size, train=4, val=2, test=2, seed=3)
    return folder


def on_gpu(*words: object, folder: Path) -> Outcome:
    """A command that ends well on the GPU."""
    outcome = run_command(*" ".join(map(str, words)).split(), cwd=folder, on_fake_gpu=True)
    assert outcome.status == 0, outcome.err[-3000:]
    return outcome


def trained(preset: str, folder: Path) -> Path:
    """A run that was trained on the GPU, stopped and resumed."""
    config = PRESETS[preset].config
    run, data = folder / preset, folder / f"{config.tiny().image_size}.h5"
    if not run.exists():
        words = f"train {preset} --tiny --data {data} --out {run} {SELDOM} {PHASES.get(config.system, '')}"
        on_gpu(words, "--steps", STEPS, folder=folder)
        on_gpu(words, "--steps", STEPS + 1, "--resume", folder=folder)
    return run


@pytest.mark.parametrize("preset", SYSTEMS)
def test_training_resuming_and_evaluating(preset: str, folder: Path) -> None:
    run = trained(preset, folder)
    on_gpu("evaluate", run, FEW, folder=folder)
    assert json.loads((run / METRICS).read_text())["step"] == STEPS + 1


def test_what_was_trained_on_a_gpu_is_used_without_one(folder: Path) -> None:
    """Checkpoints hold tensors of the CPU; the other commands run there."""
    run = trained("sri-quick", folder)
    for name in ("best", "last"):
        assert torch.load(run / CHECKPOINTS / f"{name}.pt", weights_only=True)["step"] > 0
    for words in (
        f"sample {run} --num 2 --out scenes.png",
        f"evaluate {run} {FEW}",
        f"train sri-quick --out {run} --resume --steps {STEPS + 2} --device cpu",
    ):
        outcome = run_command(*words.split(), cwd=folder)
        assert outcome.status == 0, outcome.err


def test_pages_and_pictures_where_there_is_a_gpu(folder: Path) -> None:
    run = trained("sri-quick", folder)
    for words in (f"visualize {run} --num 2 --out pictures", f"report {run} --out page.html"):
        on_gpu(words, folder=folder)
    assert (folder / "page.html").stat().st_size > 0


def test_benchmarks(folder: Path) -> None:
    small = "--image-size 32 --num-slots 3 --slot-size 8 --scene-size 8 --batch 2 --steps 1"
    outcome = on_gpu("bench sri-mog-shapestacks --json", small, folder=folder)
    assert json.loads(outcome.out.splitlines()[-1])["best_step_ms"] > 0


def test_studies(folder: Path) -> None:
    data = folder / f"{PRESETS['sri-quick'].config.tiny().image_size}.h5"
    rows = "{sri: {preset: sri-quick}}"
    few = "{num_images: 2, iwae_images: 1, iwae_samples: 2, num_samples: 2}"
    (folder / "study.yaml").write_text(f"title: A study\ndata: {{file: {data}}}\nevaluate: {few}\nrows: {rows}\n")
    words = "study study.yaml --out study --tiny"
    assert "about 0.00 hours" in on_gpu(words, "--dry-run", folder=folder).out
    on_gpu(words, folder=folder)
    metrics = json.loads((folder / "study" / "runs" / "sri" / "0" / METRICS).read_text())
    assert metrics["device"].startswith("fake")
    assert (folder / "study" / "report.html").exists()
