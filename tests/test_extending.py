"""What docs/extending.md shows is built and run: a system, a family and a metric."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_sri.config import systems
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.generators.making import make_dataset
from pyro_sri.evaluation import evaluate, measures
from pyro_sri.evaluation.measures import Truth
from pyro_sri.inference import explain
from pyro_sri.presets import PRESETS, Preset
from pyro_sri.report.gallery import gallery, load_images
from pyro_sri.training.loop import train

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
PRESET = FILES.pop("pyro_sri/presets.py")
MEASURE = FILES.pop("pyro_sri/evaluation/measures.py")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """The new files as modules, and what they add to the lists."""
    modules: dict[str, types.ModuleType] = {}
    for path, code in FILES.items():
        name = path.removesuffix(".py").replace("/", ".")
        name = name if name.startswith("pyro_sri") else f"pyro_sri.{name}"
        module = modules[path] = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, path, "exec"), module.__dict__)
    config = modules["pyro_sri/config/blots.py"].BlotConfig
    preset = eval(PRESET, {"Preset": Preset, "BlotConfig": config})
    monkeypatch.setitem(PRESETS, preset.config.preset, preset)
    family = modules["pyro_sri/data/generators/discs.py"].DISCS
    monkeypatch.setitem(GENERATORS, family.name, family)
    return modules


def test_a_new_system_trains_resumes_and_is_evaluated_and_shown(
    toys: dict[str, types.ModuleType], tetrominoes: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        PRESETS["blots-tetrominoes"].config.tiny(), data=tetrominoes, image_size=32, steps=4, checkpoint_every=2
    )
    assert systems()["blots"] is type(config)
    whole = train(config, tmp_path / "whole")
    train(dataclasses.replace(config, steps=2), tmp_path / "parts")
    parts = train(config, tmp_path / "parts", resume=True)
    for (name, one), other in zip(
        whole.load_module("last").state_dict().items(), parts.load_module("last").state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    module = whole.load_module()
    metrics = evaluate(module.model, module.guide, tetrominoes, module.elbo, num_images=8, iwae_images=2, num_samples=8)
    assert metrics["kl"] == metrics["kl_blots"] > 0
    assert metrics["active_dimensions"] is not None
    assert metrics["iwae_bpd"] is not None
    shown = {exhibit.name for exhibit in gallery(whole, load_images(whole, "test", 4), num=2)}
    assert {"reconstructions", "samples", "slot_traversals", "temperatures", "curves", "model_plates"} <= shown


def test_a_new_family_is_made(toys: dict[str, types.ModuleType], tmp_path: Path) -> None:
    make_dataset("discs", tmp_path / "discs.h5", train=3, val=0, test=2, options={"num_discs": 3})
    with DatasetFile(tmp_path / "discs.h5") as file:
        assert file.read(file.masks("train"), slice(3)).shape == (3, 4, 32, 32, 1)
        assert file.attributes["num_discs"] == 3


def test_a_new_metric_measures(toys: dict[str, types.ModuleType]) -> None:
    model, guide, elbo = PRESETS["blots-tetrominoes"].config.tiny().build()
    elbo(model, guide).eval()
    explanation = explain(model, guide, torch.rand(3, 3, 32, 32), elbo)
    function = toys["pyro_sri/metrics/brightness.py"].brightness_error
    namespace = dict(vars(measures)) | {"brightness_error": function}
    exec(MEASURE, namespace)
    measure = namespace["Brightness"]()
    measure.update(explanation, Truth(None, ()))
    expected = (explanation.reconstruction - explanation.images).mean().item()
    assert measure.result()["brightness_error"] == pytest.approx(expected, abs=1e-6)
    assert function(np.zeros((2, 3, 4, 4)), np.full((2, 3, 4, 4), 0.25)).tolist() == [0.25, 0.25]


@pytest.mark.slow
def test_the_tests_of_a_new_system_run_by_themselves(tmp_path: Path) -> None:
    """In a copy of the repository with the four files: the lists of systems have the new one, and its cases pass."""
    skipped = shutil.ignore_patterns(".venv", ".git", "build", "runs", "demo", "datasets", "__pycache__", ".*_cache")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=skipped)
    for path, code in FILES.items():
        (copy / path).write_text(code)
    presets = copy / "pyro_sri" / "presets.py"
    known, first = presets.read_text(), "from pyro_sri.config import ("
    known = known.replace(first, f"from pyro_sri.config.blots import BlotConfig\n{first}", 1)
    presets.write_text(known.replace("        _air(", f"{PRESET.strip()},\n        _air(", 1))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), str(copy)], check=True)
    shutil.rmtree(copy / "pyro_sri")  # or Python would find the part of the package that lies here first
    tests = [sys.executable, "-m", "pytest", "-k", "blots", "-m", "", "-q", "-p", "no:cacheprovider", "tests"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(tests, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 10
