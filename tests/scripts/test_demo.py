import shlex
from pathlib import Path

import pytest

from pyro_sri.config import RunConfig
from pyro_sri.presets import find_preset
from pyro_sri.scripts import demo
from pyro_sri.scripts.main import run
from pyro_sri.scripts.preset_options import parse_fields
from support.reports import METRICS, make_run


@pytest.mark.parametrize("speed", [8.0, 14.0, 22.0, 60.0])
def test_the_demo_plans_as_many_steps_as_there_is_time_for(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "steps_per_second", lambda threads: speed / threads)
    preset = find_preset(demo.PRESET).config

    def read(config: RunConfig) -> RunConfig:
        return config

    config = parse_fields(read, preset, "", "demo", demo.first_options())
    assert config.threads == 1
    assert config.steps == config.encoded_from <= preset.encoded_from  # the prior alone comes later
    assert config.segregation_steps / config.steps == pytest.approx(
        preset.segregation_steps / preset.encoded_from, 1e-2
    )

    left = demo.SECONDS - config.steps / speed
    alone = demo.steps_alone(left, speed)
    needed = (config.steps + demo.STEP_ALONE * alone + demo.REST) / speed
    assert needed <= demo.SECONDS or alone == demo.FEWEST_ALONE


def test_the_demo_ends_with_what_was_reached_and_where_to_look(tmp_path: Path) -> None:
    trained = make_run(tmp_path / "a run", None, METRICS | {"structure_accuracy": 0.853})
    reached, look, following = demo.closing(trained, tmp_path / "report.html", 8.94)
    assert "after 8.9 minutes and 7 steps" in reached
    assert "ARI-FG of 0.91" in reached
    assert "85 % of the generated towers" in reached
    assert str(tmp_path / "report.html") in look
    words = shlex.split(following.removeprefix("to draw new scenes: ").partition(";")[0])
    run([*words[1:], "--out", str(tmp_path / "samples.png")])
    assert (tmp_path / "samples.png").exists()
    assert "ARI-FG of -" in demo.closing(make_run(tmp_path / "bare", None), tmp_path / "report.html", 1)[0]
