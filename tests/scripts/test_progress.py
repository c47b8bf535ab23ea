"""How far a training is: nothing of it is ever pushed out of a narrow terminal, and a log file is never silent long."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pyro_sri.scripts import progress
from pyro_sri.scripts.cli import bar_columns, name_column
from pyro_sri.scripts.main import run
from pyro_sri.scripts.progress import TrainingBar, TrainingLines

TERMS = "loss 1234.5  nll 1200.1  kl scene 12.3  kl slots 123.4  kl cross 12.3  mask kl 1.2  beta 0.012  12 images/s"
DAYS = 60.0 * 60 * 24 * 3


def drawn(bar: Progress, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(*bar.get_renderables())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [50, 80, 132])
@pytest.mark.parametrize("seconds_per_step", [0.1, 60.0])
def test_bar_count_and_time_left_stay_beside_long_terms(width: int, seconds_per_step: float) -> None:
    bar, now = TrainingBar(Console(file=io.StringIO(), force_terminal=True), 500_000), 0.0
    bar.get_time = lambda: now  # type: ignore[method-assign]
    bar.reset(bar.training, start=True)
    for step in range(390_000, 390_011):
        now += seconds_per_step
        bar.advance_to(step, TERMS)
    first, *below = drawn(bar, width)
    assert "━" in first
    assert "390010/500000" in first
    assert first.rstrip().endswith("left")
    assert "-:--:--" not in first
    assert " ".join(" ".join(below).split()) == " ".join(TERMS.split())


def test_a_bar_with_a_long_name_keeps_its_count() -> None:
    bar = Progress(name_column(), *bar_columns(), expand=True)
    bar.add_task("towers/a-long-name-of-a-row-of-a-study/seed-0, evaluating", total=9_000, completed=1_500)
    said = "\n".join(drawn(bar, 60))
    assert "1500/9000" in said
    assert "left" in said
    assert "━" in said


def test_a_log_file_is_told_at_once_and_then_at_least_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = TrainingLines(100)
    lines.advance_to(10, None)  # resumed at step 10
    for step in range(11, 31):
        now += 20.0
        lines.advance_to(step, "loss 3.0" if step == 20 else None)
    assert capsys.readouterr().err.splitlines() == [
        "step 11/100  0:29:40 left",
        "step 15/100  0:28:20 left",
        "step 19/100  0:27:00 left",
        "step 20/100  loss 3.0  0:26:40 left",
        "step 24/100  0:25:20 left",
        "step 28/100  0:24:00 left",
    ]


def test_a_training_without_a_terminal_says_its_first_step(
    tetrominoes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        [
            "train",
            "sri-quick",
            "--tiny",
            "--log-every",
            "50",
            "--out",
            str(tmp_path / "run"),
            "--data",
            str(tetrominoes),
        ]
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 1/3  0:00:")
