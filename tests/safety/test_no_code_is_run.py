"""Files from elsewhere are read, never run, and never lead a command to write where it was not told to."""

import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from pyro_sri import checkpoints, runs
from pyro_sri.config import from_yaml
from pyro_sri.features import find_inception, inception
from pyro_sri.scripts.ship_weights import ship
from pyro_sri.system.errors import UserError
from support import small_world
from support.forking import run_command
from support.small_world import DATA, FIELDS, RUN, contents

MARKER = "code-was-run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_world.settle(tmp_path)


class Payload:
    """A pickle that makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


def poison(path: Path) -> None:
    """Puts a pickle that runs code into a file of weights, which stays what it was otherwise."""
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"extra": Payload()}, path)


def test_the_payload_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"extra": Payload()}, "evil.pt")
    torch.load("evil.pt", weights_only=False)
    assert (tmp_path / MARKER).exists()


# Weights

LITTLE = ("--num-images", "2", "--num-samples", "0", "--iwae-images", "0")
TRAIN = ("train", "sri-g-shapestacks", "--data", DATA, *FIELDS.split(), "--steps", "8")
MAKE_LITTLE = ("data", "make", "tetrominoes", "--train", "4", "--val", "0", "--test", "0", "--workers", "1", "--out")
DOORS = {
    "evaluate": ("best", ("evaluate", RUN)),
    "evaluate the last": ("last", ("evaluate", RUN, "--checkpoint", "last")),
    "sample": ("best", ("sample", RUN, "--num", "1")),
    "visualize": ("best", ("visualize", RUN, "--out", "pictures")),
    "report": ("best", ("report", RUN)),
    "start from": ("best", (*TRAIN, "--start-from", RUN, "--out", "other")),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that training made, of one step."""
    folder = small_world.settle(tmp_path_factory.mktemp("trained"))
    shutil.rmtree(folder / RUN)
    outcome = run_command(*TRAIN, "--steps", "1", "--out", RUN, cwd=folder)
    assert outcome.status == 0, outcome.err
    return folder


@pytest.mark.parametrize("door", DOORS)
def test_a_checkpoint_runs_nothing(folder: Path, door: str) -> None:
    name, words = DOORS[door]
    poison(folder / RUN / "checkpoints" / f"{name}.pt")
    before = contents(folder)
    run_command(*words, cwd=folder).refused(f"{name}.pt", "not a readable checkpoint")
    assert contents(folder) == before


def test_a_run_that_is_resumed_runs_nothing(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(trained, folder)
    poison(folder / RUN / "checkpoints" / "last.pt")
    before = contents(folder)
    run_command(*TRAIN, "--out", RUN, "--resume", cwd=folder).refused("last.pt", "not a readable checkpoint")
    assert contents(folder) == before


def test_the_function_load_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    poison(folder / RUN / "checkpoints" / "best.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoints.load_checkpoint(folder / RUN / "checkpoints" / "best.pt")
    assert not (folder / MARKER).exists()


def test_official_weights_run_nothing(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Payload()}, tmp_path / "evil.pth")
    words = ("import-weights", "evil.pth", "--image-size", "32", "--num-slots", "3", "--out", "run")
    run_command(*words, cwd=tmp_path).refused("evil.pth", "something other than tensors")
    assert os.listdir(tmp_path) == ["evil.pth"]


def test_what_shipping_weights_reads_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(runs, "WEIGHTS", folder / "weights")
    change(folder, preset="sri-quick")
    poison(folder / RUN / "checkpoints" / "best.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        ship(folder / RUN)
    assert not (folder / MARKER).exists()


# Inception: a TorchScript file is a program by nature


class Writing(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, "code-was-run")
        return images.flatten(1)[:, :2048].float()


def scripted(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        torch.jit.script(Writing()).save(str(path))
    return path


@pytest.mark.parametrize("download", [False, True])
def test_only_the_published_program_is_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    monkeypatch.setenv("PYRO_SRI_CACHE", str(tmp_path))
    monkeypatch.setattr(
        inception.urllib.request, "urlopen", lambda *_, **__: scripted(tmp_path / "theirs.pt").open("rb")
    )
    planted = scripted(tmp_path / Path(inception.URL).name)
    assert find_inception(download=download) is None
    monkeypatch.setattr(inception, "SHA256", inception._sha256(planted))
    assert find_inception(download=False) == planted


def test_no_program_is_run_that_the_user_does_not_name(folder: Path) -> None:
    (folder / "cache").mkdir()
    scripted(folder / "cache" / Path(inception.URL).name)
    scripted(folder / RUN / "inception.pt")
    outcome = run_command("evaluate", RUN, *LITTLE, cwd=folder, env={"PYRO_SRI_CACHE": str(folder / "cache")})
    assert outcome.status == 0, outcome.err
    assert not (folder / MARKER).exists()
    outcome = run_command("evaluate", RUN, *LITTLE, "--inception", f"{RUN}/inception.pt", cwd=folder)
    assert (folder / MARKER).exists()  # so the others would have been seen


# Configurations


@pytest.mark.parametrize(
    "value",
    [
        *("!!python/object/apply:os.system ['touch code-was-run']", "!!python/name:os.system", "!!python/module:os"),
        *("!!python/object/new:os.system [touch code-was-run]", "!!python/object:pathlib.Path {}", "!!python/tuple []"),
        *("!!python/module:module_that_makes_a_file ''", "!!python/name:module_that_makes_a_file.name ''"),
    ],
)
@pytest.mark.parametrize("field", ["preset", "data", "steps", "start_from", "unknown"])
def test_a_configuration_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (folder / "module_that_makes_a_file.py").write_text(f"open('{MARKER}', 'w').close()\nname = 1\n")
    fields = yaml.safe_load((folder / RUN / "config.yaml").read_text())
    fields.pop(field, None)
    text = f"{yaml.safe_dump(fields)}{field}: {value}\n"
    with pytest.raises(UserError) as caught:
        from_yaml(text, "config.yaml")
    assert "config.yaml" in str(caught.value)
    with pytest.raises(UserError):
        from_yaml(f"{value}\n", "config.yaml")
    assert not (folder / MARKER).exists()


def test_a_hostile_configuration_is_one_plain_line(folder: Path) -> None:
    with (folder / RUN / "config.yaml").open("a") as file:
        file.write("extra: !!python/object/apply:os.system ['touch code-was-run']\n")
    for words in (("sample", RUN), ("evaluate", RUN), (*TRAIN, "--out", RUN, "--resume")):
        run_command(*words, cwd=folder).refused("config.yaml")
    assert not (folder / MARKER).exists()


# Paths that come from files


def change(folder: Path, **fields: str) -> None:
    """Edits the configuration of the run."""
    path = folder / RUN / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields, sort_keys=False))


def test_names_in_files_lead_nowhere(folder: Path) -> None:
    """What a run calls its preset, its dataset and what it started from are names, not places."""
    inside = folder / "inside"
    inside.mkdir()
    small_world.settle(inside)
    change(inside, preset="../../escaped", dataset=f"{folder}/escaped", start_from="~/$(touch code-was-run)")
    names = {"data": "../../escaped", "preset": "../../escaped", "checkpoint": "../../escaped"}
    small_world.write_metrics(inside / RUN, small_world.METRICS | names)
    for words in (("sample", RUN, "--num", "1"), ("evaluate", RUN, *LITTLE)):
        outcome = run_command(*words, cwd=inside)
        assert outcome.status == 0, outcome.err
    assert set(os.listdir(folder)) == {DATA, RUN, "inside"}
    assert set(os.listdir(inside)) == {DATA, RUN}
    assert set(os.listdir(inside / RUN)) == {"checkpoints", "config.yaml", "evaluation", "metrics.jsonl", "samples"}


def test_weights_are_shipped_under_the_names_of_presets_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "WEIGHTS", folder / "package" / "weights")
    change(folder, preset="../../escaped")
    before = contents(folder)
    with pytest.raises(UserError):
        ship(folder / RUN)
    assert contents(folder) == before


def test_a_name_of_shipped_weights_is_no_path(folder: Path) -> None:
    for name in ("../../pyro_sri/weights/sri-quick", "sri-quick/../sri-quick", "./sri-quick"):
        run_command("sample", name, "--out", "scenes.png", cwd=folder).refused("no run directory")
    run_command("train", "../sri-quick", "--out", "x", cwd=folder).refused("no preset")
    run_command("evaluate", RUN, "--checkpoint", "../../../etc/passwd", cwd=folder).refused("best or last")


def test_attributes_of_a_data_file_lead_nowhere(folder: Path) -> None:
    with h5py.File(folder / DATA, "r+") as file:
        for name in ("generator", "source", "dataset", "seed"):
            file.attrs[name] = "../../escaped"
        file.attrs["files"] = ["../../escaped", "/tmp/escaped"]
    before = set(os.listdir(folder))
    for words in (
        ("data", "info", DATA),
        ("data", "preview", DATA, "--out", "preview.png"),
        ("evaluate", RUN, *LITTLE),
    ):
        outcome = run_command(*words, cwd=folder)
        assert outcome.status == 0, outcome.err
    assert set(os.listdir(folder)) == before | {"preview.png"}


# Links in a run directory


def linked(folder: Path, name: str) -> Path:
    """Puts a link to a file outside in the place of a file of the run; returns the file outside."""
    place = folder / RUN / name
    outside = folder / f"outside {place.name}"
    place.parent.mkdir(exist_ok=True)
    outside.write_bytes(place.read_bytes() if place.exists() else b"precious")
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    return outside


@pytest.mark.parametrize(
    "names",
    [
        ("checkpoints/last.pt", "checkpoints/best.pt", "config.yaml"),
        ("metrics.jsonl",),
        ("checkpoints/.last.pt.unfinished",),
    ],
)
def test_training_writes_to_no_file_outside(trained: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(trained, folder)
    before = {outside: outside.read_bytes() for outside in [linked(folder, name) for name in names]}
    outcome = run_command(*TRAIN, "--steps", "2", "--out", RUN, "--resume", cwd=folder)
    assert "Traceback" not in outcome.err
    assert {outside: outside.read_bytes() for outside in before} == before


@pytest.mark.parametrize("name", ["metrics.json", "metrics.1.json", ".metrics.json.unfinished"])
def test_evaluation_writes_to_no_file_outside(folder: Path, name: str) -> None:
    outside = linked(folder, f"evaluation/{name}")
    before = outside.read_bytes()
    outcome = run_command("evaluate", RUN, *LITTLE, cwd=folder)
    assert outside.read_bytes() == before
    assert "Traceback" not in outcome.err


def test_samples_are_written_to_no_file_outside(folder: Path) -> None:
    outside = linked(folder, "samples/samples-seed0.png")
    outcome = run_command("sample", RUN, "--num", "1", cwd=folder)
    assert outcome.status == 0, outcome.err
    assert outside.read_bytes() == b"precious"
    outside.unlink()
    outcome = run_command("sample", RUN, "--num", "1", cwd=folder)  # the link leads nowhere now
    assert outcome.status == 0, outcome.err
    assert not outside.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("sample", RUN, "--num", "1", "--out"),
        ("report", RUN, "--out"),
        ("data", "preview", DATA, "--out"),
        MAKE_LITTLE,
    ],
)
def test_an_output_that_is_a_dangling_link_is_refused(folder: Path, words: tuple[str, ...]) -> None:
    suffix = {"sample": ".png", "report": ".html"}.get(words[0], ".png" if "preview" in words else ".h5")
    (folder / f"out{suffix}").symlink_to(folder / "outside")
    run_command(*words, f"out{suffix}", cwd=folder).refused("already exists")
    assert not (folder / "outside").exists()


# Programs that are called


@pytest.mark.slow
def test_ffmpeg_and_dot_get_lists_of_arguments(folder: Path) -> None:
    """Their names and folders may hold anything a shell would obey."""
    tools = folder / "tools; touch code-was-run"
    tools.mkdir()
    for name in ("ffmpeg", "dot"):
        (tools / name).write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/called'\nexit 1\n")
        (tools / name).chmod(0o755)
    out = "pictures; touch code-was-run #"
    outcome = run_command("visualize", RUN, "--num", "1", "--out", out, cwd=folder, env={"PATH": f"{tools}:/bin"})
    assert "Traceback" not in outcome.err
    assert (folder / "called").exists()
    assert not list(folder.rglob(MARKER))


def test_a_pickled_array_is_no_piece_of_a_data_set(folder: Path) -> None:
    words = (*MAKE_LITTLE, "t.h5")
    stop = {"pyro_sri.data.writing:_append": ("signal", signal.SIGTERM)}
    run_command(*words, cwd=folder, instead=stop).refused("terminated", "the same command", status=143)
    (piece,) = folder.glob("t.h5.parts/*.npz")
    np.savez(piece, images=np.array([Payload()], dtype=object))
    outcome = run_command(*words, cwd=folder)
    assert outcome.status == 0, outcome.err
    assert not list(folder.rglob(MARKER))
