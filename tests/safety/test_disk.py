"""Full and read-only disks, and odd paths: one plain line, the old files as they were, and nothing half-written."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pyro_sri import checkpoints
from pyro_sri.system.errors import UserError
from support import small_world
from support.forking import run_command
from support.small_world import DATA, FIELDS, RUN, WEIGHTS, contents

LITTLE = ("--num-images", "2", "--num-samples", "0", "--iwae-images", "0")
MAKE = ("data", "make", "tetrominoes", "--train", "300", "--val", "0", "--test", "0", "--workers", "1")
TRAIN = ("train", "sri-g-shapestacks", "--data", DATA, *FIELDS.split(), "--checkpoint-every", "1")
IMPORT = ("import-weights", WEIGHTS, "--image-size", "32", "--num-slots", "5")
PHOTOS = ("data", "convert", "photos", "--val", "0", "--test", "0")

# Every command that writes a file of its own choosing or the user's, and where.
WRITERS = {
    "train": ((*TRAIN, "--steps", "1", "--out"), "x/new"),
    "evaluate": (("evaluate", RUN, *LITTLE), ""),
    "sample": (("sample", RUN, "--num", "1"), ""),
    "sample a picture": (("sample", RUN, "--num", "1", "--out"), "x/new.png"),
    "sample arrays": (("sample", RUN, "--num", "1", "--out"), "x/new.npz"),
    "visualize": (("visualize", RUN, "--num", "1", "--out"), "x/new"),
    "report": (("report", RUN, "--out"), "x/new.html"),
    "data make": ((*MAKE, "--out"), "x/new.h5"),
    "data convert": ((*PHOTOS, "--out"), "x/new.h5"),
    "data preview": (("data", "preview", DATA, "--out"), "x/new.png"),
    "import-weights": ((*IMPORT, "--out"), "x/new"),
}
CHOSEN = {name: writer for name, writer in WRITERS.items() if writer[1]}
# What takes seconds before it writes is tried in the slow tests alone.
QUICK = [name for name in WRITERS if name not in ("visualize", "report")]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("visualize", "report")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_world.settle(tmp_path)
    small_world.add_weights(tmp_path)
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "photos" / "a.png")
    (tmp_path / "x").mkdir()
    return tmp_path


def words_of(name: str, out: str | None = None) -> tuple[str, ...]:
    words, place = WRITERS[name]
    return (*words, *([out or place] if place else []))


@pytest.mark.parametrize("limit", [pytest.param(0, marks=pytest.mark.slow), 500])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_full_disk(folder: Path, name: str, limit: int) -> None:
    before = contents(folder)
    run_command(*words_of(name), cwd=folder, file_bytes=limit).refused("cannot write", "too large")
    assert contents(folder) == before


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_folder_that_may_not_be_written(folder: Path, name: str) -> None:
    for place in (folder / "x", folder / RUN, folder / RUN / "evaluation"):
        place.chmod(0o555)
    before = contents(folder)
    run_command(*words_of(name), cwd=folder, without_privileges=True).refused("cannot write", "ermission")
    assert contents(folder) == before


@pytest.mark.parametrize("name", [*(name for name in QUICK if name in CHOSEN), *SLOW])
def test_a_path_through_a_file(folder: Path, name: str) -> None:
    before = contents(folder)
    place = f"{DATA}/{Path(WRITERS[name][1]).name}"
    run_command(*words_of(name, place), cwd=folder).refused(DATA)
    assert contents(folder) == before


@pytest.mark.parametrize("name", CHOSEN)
def test_a_file_that_is_there_already(folder: Path, name: str) -> None:
    place = WRITERS[name][1]
    (folder / place).write_text("precious")
    before = contents(folder)
    run_command(*words_of(name), cwd=folder).refused(place)
    assert contents(folder) == before


@pytest.mark.parametrize("name", [name for name in CHOSEN if name in QUICK])
@pytest.mark.parametrize("length", [300, 5000])
def test_a_very_long_name(folder: Path, name: str, length: int) -> None:
    before = contents(folder)
    place = Path(WRITERS[name][1])
    outcome = run_command(*words_of(name, str(place.with_name("n" * length + place.suffix))), cwd=folder)
    assert "too long" in outcome.refused("nnn")
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["sample a picture", "data preview", "data make", "import-weights"])
def test_folders_that_are_missing_are_made(folder: Path, name: str) -> None:
    place = WRITERS[name][1].replace("x/", "x/y/z/")
    outcome = run_command(*words_of(name, place), cwd=folder)
    assert outcome.status == 0, outcome.err
    assert (folder / place).exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (DATA, (*TRAIN, "--out", "x/new")),
        (DATA, ("evaluate", RUN)),
        (DATA, ("visualize", RUN, "--out", "x/new")),
        (DATA, ("data", "info", DATA)),
        (DATA, ("data", "check", DATA)),
        (DATA, ("sample", RUN, "--condition", f"{DATA}:0")),
        ("photos/a.png", ("sample", RUN, "--condition", "photos/a.png")),
        ("photos/a.png", (*PHOTOS, "--out", "x/new.h5")),
        ("photos", (*PHOTOS, "--out", "x/new.h5")),
        (WEIGHTS, (*IMPORT, "--out", "x/new")),
        (f"{RUN}/config.yaml", ("sample", RUN)),
        (f"{RUN}/checkpoints/best.pt", ("sample", RUN)),
        (f"{RUN}/checkpoints", ("sample", RUN)),
        pytest.param(f"{RUN}/metrics.jsonl", ("report", RUN), marks=pytest.mark.slow),
        (f"{RUN}/evaluation/metrics.json", ("report", RUN)),
        (f"{RUN}/evaluation/metrics.json", ("evaluate", RUN, *LITTLE)),
        (RUN, ("sample", RUN)),
        (RUN, ("evaluate", RUN)),
        (RUN, ("report", RUN)),
    ],
)
def test_a_file_that_may_not_be_read(folder: Path, file: str, words: tuple[str, ...]) -> None:
    before = contents(folder)
    (folder / file).chmod(0)
    outcome = run_command(*words, cwd=folder, without_privileges=True)
    (folder / file).chmod(0o755)
    outcome.refused(Path(file).name)
    assert contents(folder) == before


def test_the_last_checkpoint_outlives_a_full_disk(folder: Path) -> None:
    outcome = run_command(*TRAIN, "--steps", "2", "--out", "x/new", cwd=folder)
    assert outcome.status == 0, outcome.err
    last = folder / "x" / "new" / "checkpoints" / "last.pt"
    before = last.read_bytes()
    outcome = run_command(*TRAIN, "--steps", "4", "--out", "x/new", "--resume", cwd=folder, file_bytes=len(before) // 2)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("pyro-sri: cannot write x/new/checkpoints/")
    assert last.read_bytes() == before
    assert not [name for name in contents(folder / "x") if "unfinished" in name]
    outcome = run_command(*TRAIN, "--steps", "4", "--out", "x/new", "--resume", cwd=folder)
    assert outcome.status == 0, outcome.err
    assert torch.load(last)["step"] == 4


def test_a_checkpoint_that_ends_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save says in many ways that it could not write, depending on where the disk ended."""
    monkeypatch.chdir(folder)
    path = Path(RUN) / "checkpoints" / "last.pt"
    before, checkpoint = contents(folder), checkpoints.load_checkpoint(path)
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for part in (0, 1, 64, 1000, *(size * n // 7 for n in range(1, 7)), size - 1000, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (part, limits[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write run/checkpoints/last\.pt: File too large"):
                checkpoints.save_checkpoint(path, checkpoint)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(folder) == before


# A small disk of its own


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """Eight megabytes."""
    disk = folder / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk may be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    return filler


def test_a_disk_that_fills_up_in_training(folder: Path, small_disk: Path) -> None:
    outcome = run_command(*TRAIN, "--steps", "2", "--out", "disk/new", cwd=folder)
    assert outcome.status == 0, outcome.err
    checkpoint = small_disk / "new" / "checkpoints" / "last.pt"
    before = checkpoint.read_bytes()
    for left in (0, len(before) // 2):
        filler = fill(small_disk, left)
        outcome = run_command(*TRAIN, "--steps", "9", "--out", "disk/new", "--resume", cwd=folder)
        assert outcome.status == 2
        assert "Traceback" not in outcome.err
        line = outcome.err.splitlines()[-1]
        assert line.startswith("pyro-sri: cannot write disk/new/"), outcome.err
        assert "No space left on device; free some space" in line
        assert checkpoint.read_bytes() == before
        filler.unlink()
    outcome = run_command(*TRAIN, "--steps", "3", "--out", "disk/new", "--resume", cwd=folder)
    assert outcome.status == 0, outcome.err
    assert torch.load(checkpoint)["step"] == 3
    assert not [name for name in contents(small_disk) if "unfinished" in name]


@pytest.mark.parametrize("name", ["sample arrays", "data make", "data preview", "import-weights"])
def test_a_disk_without_space(folder: Path, small_disk: Path, name: str) -> None:
    fill(small_disk, 4096)
    before = contents(small_disk)
    line = run_command(*words_of(name, f"disk/{Path(WRITERS[name][1]).name}"), cwd=folder).refused("cannot write disk/")
    assert "No space left on device" in line
    assert contents(small_disk) == before


def test_a_read_only_disk(folder: Path, small_disk: Path) -> None:
    shutil.copytree(folder / RUN, small_disk / RUN)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for words in (("sample", f"disk/{RUN}", "--num", "1"), ("evaluate", f"disk/{RUN}", *LITTLE)):
        run_command(*words, cwd=folder).refused(f"cannot write disk/{RUN}", "Read-only file system")
    for name in ("train", "data make", "data preview", "import-weights"):
        place = f"disk/{Path(WRITERS[name][1]).name}"
        run_command(*words_of(name, place), cwd=folder).refused(f"cannot write {place}", "Read-only file system")


# Standard output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [("presets",), ("--help",), ("data", "info", DATA), ("sample", RUN, "--num", "1")])
def test_output_that_cannot_be_written(folder: Path, words: tuple[str, ...]) -> None:
    run_command(*words, cwd=folder, stdout="/dev/full").refused("write the output", "No space left on device")
