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
import pyro
import pytest
import torch

from pyro_sri.config import systems
from pyro_sri.data import generators
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.loading import to_images
from pyro_sri.data.making import make_dataset
from pyro_sri.evaluation import evaluate
from pyro_sri.evaluation.measures import MEASURES
from pyro_sri.inference import explain
from pyro_sri.presets import PRESETS, Preset
from pyro_sri.report.gallery import gallery, load_images
from pyro_sri.system.discovery import definitions
from pyro_sri.system.errors import UserError
from pyro_sri.training.loop import train

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
OPTION = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)[0]
PRESET = FILES.pop("pyro_sri/presets.py")


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
    measure = modules["pyro_sri/evaluation/measures/brightness.py"].Brightness
    monkeypatch.setitem(MEASURES, "Brightness", measure)
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


def test_a_new_option_is_checked_and_used(toys: dict[str, types.ModuleType], tmp_path: Path) -> None:
    path = "pyro_sri/config/blots.py"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(FILES[path])
    _apply(OPTION, tmp_path)
    module = types.ModuleType("pyro_sri.config.blots")
    code = (tmp_path / path).read_text().replace('"blots"', '"blots with features"')
    exec(compile(code, path, "exec"), module.__dict__)
    config = module.BlotConfig(preset="blots", dataset="tetrominoes", image_size=32, features=24)
    assert config.build()[1].head.in_features == 24
    with pytest.raises(UserError, match="features"):
        dataclasses.replace(config, features=0)


def _apply(diff: str, folder: Path) -> None:
    """Applies a diff whose hunks have no line numbers: each finds its lines by what they say."""
    path = folder / re.search(r"\+\+\+ b/(\S+)", diff)[1]  # type: ignore[index]
    text = path.read_text()
    for hunk in diff.split("@@\n")[1:]:
        before = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in " -")
        after = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in " +")
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text)


def test_a_new_family_is_found_and_made(toys: dict[str, types.ModuleType], tmp_path: Path) -> None:
    make_dataset("discs", tmp_path / "discs.h5", train=3, val=0, test=2, options={"num_discs": 3})
    with DatasetFile(tmp_path / "discs.h5") as file:
        assert file.read(file.masks("train"), slice(3)).shape == (3, 4, 32, 32, 1)
        assert file.attributes["num_discs"] == 3
    (tmp_path / "discs.py").write_text(FILES["pyro_sri/data/generators/discs.py"])
    found = definitions(generators.__name__, [*generators.__path__, str(tmp_path)])
    assert any(value is GENERATORS["discs"] for value in found)


def test_a_new_metric_is_part_of_every_evaluation(toys: dict[str, types.ModuleType], tetrominoes: Path) -> None:
    function = toys["pyro_sri/metrics/brightness.py"].brightness_error
    assert function(np.zeros((2, 3, 4, 4)), np.full((2, 3, 4, 4), 0.25)).tolist() == [0.25, 0.25]
    config = dataclasses.replace(PRESETS["blots-tetrominoes"].config.tiny(), image_size=32)
    model, guide, elbo = config.build()
    metrics = evaluate(model, guide, tetrominoes, elbo, num_images=8, iwae_images=0, num_samples=0)
    with DatasetFile(tetrominoes) as file:
        images = to_images(torch.from_numpy(file.read(file.images("test"), slice(8))), "cpu")
    pyro.set_rng_seed(0)
    explanation = explain(model, guide, images, elbo, imagine=False)
    expected = (explanation.reconstruction - explanation.images).mean().item()
    assert metrics["brightness_error"] == pytest.approx(expected, abs=1e-6)
    assert isinstance(metrics["brightness_error_stderr"], float)


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
