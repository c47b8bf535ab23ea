"""`make gpu` without a GPU: it says so and writes nothing; what it would write has its place in the page."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pyro_sri.presets import PRESETS
from pyro_sri.scripts.standard_bench import fill

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gpu", ROOT / "tools" / "gpu.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = (ROOT / script.PAGE).read_text()
    assert script.main() == 2
    assert "cannot use a GPU here" in capsys.readouterr().err
    assert (ROOT / script.PAGE).read_text() == before


def test_what_it_finds_goes_into_the_page(script: ModuleType) -> None:
    page = ROOT / script.PAGE
    findings = [script.Finding(True, "well"), script.Finding(False, "not well"), script.Finding(None, "by the way")]
    rows = [["`--precision tf32`", "8.0", "125", "3.1"]]
    written = fill(page, script.lay_out("cuda (NVIDIA H100)", findings, rows), script.BEGIN, script.END)
    for line in ("| `--precision tf32` | 8.0 | 125 | 3.1 |", "- PASS well", "- FAIL not well", "- INFO by the way"):
        assert line in written.splitlines()
    before, after = page.read_text().split(script.BEGIN)[0], page.read_text().split(script.END)[1]
    assert written.startswith(before)
    assert written.endswith(after)


def test_its_checks_are_of_every_system(script: ModuleType, tmp_path: Path) -> None:
    assert set(script.systems()) == {preset.config.system for preset in PRESETS.values()}
    place = script.Place(torch.device("cpu"), tmp_path)
    assert [finding.well for finding in script.check_group_norm(place)] == [True]
    state = {"weight": torch.ones(3), "steps": torch.tensor(3)}
    assert script.distance(state, state) == 0
    assert script.distance({"weight": 1.1 * torch.ones(3)}, state) == pytest.approx(0.1, rel=1e-5)
