"""`make bench`: what it runs, what it makes of made-up results, and that it never leaves half a page."""

import itertools
import json
import re
from pathlib import Path

import pytest

from pyro_sri.presets import PRESETS, find_preset
from pyro_sri.scripts import bench, standard_bench
from pyro_sri.scripts.standard_bench import BEGIN, END, PARTS
from pyro_sri.system.errors import UserError

PROSE = f"# Performance\n\nBefore.\n\n{BEGIN}\nold figures\n{END}\n\n## After\n"
ROOT = Path(__file__).parents[2]


class MadeUp:
    """Stands in for the processes; every round is a little faster than the one before."""

    def __init__(self, failing: str = "nothing fails") -> None:
        self.failing = failing
        self.units = itertools.count(800, -1)  # ms
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, module: str, *args: str) -> str:
        self.asked.append((module, *args))
        if self.failing in args:
            raise UserError("it failed")
        if module == "pyro_sri.scripts.unit":
            return str(next(self.units) / 1000)
        times_asked = self.asked.count((module, *args))
        preset = find_preset(args[1]).config
        batch = int(args[args.index("--batch") + 1]) if "--batch" in args else preset.batch_size
        step = 1000.0 / times_asked if batch == 8 else 321.0
        outside = 40.0 if batch == 8 else 10.0 + times_asked
        no_prior = preset.system == "slot_attention"
        result = {
            "preset": preset.preset,
            "batch": batch,
            "best_step_ms": step,
            "peak_memory_mb": 2048.0 + times_asked,
            "inference_images_per_second": 30.0 + times_asked,
            "infer_one_ms": 70.0 - times_asked,
            "sampling_images_per_second": None if no_prior else 50.0,
            "sample_one_ms": None if no_prior else 23.0,
            "stages": {
                "forward": 400.0,
                "backward": 600.0 - 2 * times_asked,
                "optimiser": 10.0,
                bench.OUTSIDE: outside,
            },
        }
        return json.dumps(result)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(PROSE)
    return path


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    processes = MadeUp()
    monkeypatch.setattr(standard_bench, "_last_line", processes)
    return processes


def rows(text: str, start: str) -> list[list[str]]:
    """Cells of the table rows that start so."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_holds_what_was_measured(page: Path, made_up: MadeUp) -> None:
    standard_bench.standard_bench(page=page)
    text = page.read_text()
    assert text.startswith(f"# Performance\n\nBefore.\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\n## After\n")
    assert "old figures" not in text
    # Five rounds: U before each of five benchmarks falls from 800 to 776 ms, the step from 1000 to 200 ms.
    [sri] = rows(text, f"`pyro-sri bench {standard_bench.SRI}`")
    assert sri[1:] == ["200", "0.26", "0.26 to 1.25", "2.0"]
    assert rows(text, "sri-mog-shapestacks")[0][1:] == ["8", "35.0", "65.0", "50.0", "23.0"]
    assert rows(text, "backward") == [["backward", "590.0", "59.0 %"]]
    assert "takes 40.0 ms, 4.0 % of the step" in text
    assert "takes 11.0 ms: **Pyro's handlers take at most 5.5 % of a step** of 200 ms" in text
    for command in (standard_bench.LARGE, standard_bench.LARGE_RECOMPUTED):
        assert rows(text, f"`pyro-sri bench {command}`")[0][1:] == ["0.3", "0.4", "2.0"]
    for name, preset in PRESETS.items():
        [row] = rows(text, f"`{name}`")
        assert row[1] == str(preset.config.image_size)
        assert (row[-1] == "no prior") == name.startswith("slot_attention")
    assert re.search(r"^Machine: .* cores .* torch ", text, re.MULTILINE)


def test_everything_runs_in_turn_with_the_unit(page: Path, made_up: MadeUp) -> None:
    standard_bench.standard_bench(page=page, rounds=2)
    units, benchmarks = made_up.asked[::2], made_up.asked[1::2]
    assert set(units) == {("pyro_sri.scripts.unit",)}
    asked = [" ".join(args[2:]).removesuffix(" --device cpu --json") for args in benchmarks]
    assert asked == [command for part in PARTS.values() for command in 2 * part.commands]


def test_a_second_run_replaces_the_first(page: Path, made_up: MadeUp) -> None:
    standard_bench.standard_bench(page=page, rounds=1)
    once = page.read_text()
    made_up.__init__()  # type: ignore[misc]
    standard_bench.standard_bench(page=page, rounds=1)
    assert page.read_text() == once


def test_a_failure_half_way_leaves_the_page_and_prints_what_there_is(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = MadeUp(failing="emorl-clevr6")
    monkeypatch.setattr(standard_bench, "_last_line", processes)
    with pytest.raises(UserError, match="it failed"):
        standard_bench.standard_bench(page=page)
    assert len(processes.asked) > 40
    assert page.read_text() == PROSE
    assert list(page.parent.iterdir()) == [page]
    assert "### Large images" in (printed := capsys.readouterr().out)
    assert "### Every preset" not in printed


@pytest.mark.parametrize(
    "text", ["# Performance\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", None]
)
def test_a_page_without_a_place_is_refused_before_anything_runs(
    text: str | None, tmp_path: Path, made_up: MadeUp
) -> None:
    page = tmp_path / "performance.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(UserError) as mistake:
        standard_bench.standard_bench(page=page)
    assert str(page) in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert made_up.asked == []
    assert text is None or page.read_text() == text


def test_a_part_is_printed_and_not_written(page: Path, made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    standard_bench.standard_bench(only="large", rounds=1, page=page)
    printed = capsys.readouterr()
    assert "### Large images" in printed.out
    assert "round 1 of 1: U 0.800 s" in printed.err
    assert len(made_up.asked) == 4
    assert page.read_text() == PROSE
    with pytest.raises(UserError, match="--rounds"):
        standard_bench.standard_bench(only="large", rounds=0)


@pytest.mark.slow
def test_a_process_says_what_went_wrong() -> None:
    assert standard_bench._last_line("platform")
    with pytest.raises(UserError, match=r"bench sri-none' failed, so nothing is written: .*no preset 'sri-none'"):
        standard_bench._last_line("pyro_sri", "bench", "sri-none")


@pytest.mark.parametrize("command", sorted({command for part in PARTS.values() for command in part.commands}))
def test_the_standard_set_can_be_asked_for(command: str) -> None:
    preset, *args = command.split()
    config, as_json = bench._read(find_preset(preset).config, [*args, "--device", "cpu", "--json"])
    assert as_json
    assert config.device == "cpu"


def test_the_page_of_the_project_has_a_place() -> None:
    standard_bench.fill(ROOT / standard_bench.PAGE, "")
