"""`pyro-sri presets`: names are whole, one preset is shown with commands that work, and all of it as JSON."""

import json
import shlex
from pathlib import Path

import pytest

from pyro_sri.presets import PRESETS, find_preset
from pyro_sri.scripts.main import run
from pyro_sri.scripts.preset_options import parse_fields
from pyro_sri.scripts.presets import commands, describe, presets
from pyro_sri.system.errors import UserError

Capture = pytest.CaptureFixture[str]
CARRIED_OUT = ("emorl-tetrominoes", "genesis_v2-g-shapestacks")  # small data of two families, which is soon made


@pytest.mark.parametrize("columns", ["40", "80", None])
def test_the_list_cuts_nothing(columns: str | None, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    else:
        monkeypatch.delenv("COLUMNS", raising=False)
    presets()
    words = capsys.readouterr().out.split()
    for name, preset in PRESETS.items():
        assert name in words
        assert set(f"{preset.summary};".split()[:-1]) <= set(words)


@pytest.mark.parametrize("name", PRESETS)
def test_one_preset(name: str, capsys: Capture) -> None:
    presets(name)
    said = capsys.readouterr().out
    preset = find_preset(name)
    assert preset.summary in said
    assert preset.needs in said
    for command in describe(preset)["commands"]:
        assert f"  {command}\n" in said
    for field, (value, default) in preset.differences().items():
        assert [field, str(value), str(default)] in [line.split() for line in said.splitlines()]


def test_a_preset_differs_where_it_is_given_something() -> None:
    differences = PRESETS["sri-mog-objects_room"].differences()
    assert differences["num_slots"] == (7, 9)
    assert "likelihood" not in differences  # mog is SRI's default
    assert not {"preset", "dataset"} & set(differences)


def test_json(capsys: Capture) -> None:
    run(["presets", "--json"])
    every = json.loads(capsys.readouterr().out)
    assert [told["preset"] for told in every] == list(PRESETS)
    run(["presets", "sri-quick", "--json"])
    (told,) = [told for told in every if told["preset"] == "sri-quick"]
    assert json.loads(capsys.readouterr().out) == told
    assert (told["makes_data"], told["weights_bundled"], told["fields"]["num_slots"]) == (True, True, 6)


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sri-quick'"):
        presets("sri-quik")


@pytest.mark.parametrize("name", CARRIED_OUT)
def test_the_commands_of_a_preset_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed, at a size that takes seconds."""
    monkeypatch.chdir(tmp_path)
    few = {"make": ["--train", "8", "--val", "2", "--test", "2"], "train": ["--tiny", "--out", f"runs/{name}"]}
    few |= {"evaluate": ["--iwae-samples", "2"]}
    for program, *words in commands(PRESETS[name], bundled=False):
        assert program == "pyro-sri"
        if words[0] != "report":  # which tests/scripts/test_report.py runs, and takes long
            run([*words, *few.get(words[1] if words[0] == "data" else words[0], [])])
    assert (tmp_path / "runs" / name / "evaluation" / "metrics.json").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_training_command_is_understood(name: str) -> None:
    words = next(words for words in commands(PRESETS[name], bundled=False) if words[1] == "train")
    assert parse_fields(lambda config: config, PRESETS[name].config, "", shlex.join(words), words[3:]) is not None
