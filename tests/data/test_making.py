"""Interrupted making goes on where it stopped, to the same arrays."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pyro_sri.data import making
from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators.pieces import Pieces, pieces_of
from pyro_sri.data.making import Task, draw, make_dataset
from pyro_sri.system.errors import UserError

NUM = 160  # five pieces of 32
WORDS = ("--size", "32", "--train", str(NUM), "--val", "0", "--test", "3", "--seed", "4")


def content(path):
    check_dataset(path)
    with DatasetFile(path) as file:
        return file.content_hash()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The hash of the file that is made without interruption."""
    path = tmp_path_factory.mktemp("whole") / "rooms.h5"
    make_dataset("rooms", path, size=32, train=NUM, val=0, test=3, seed=4)
    assert list(path.parent.iterdir()) == [path]
    return content(path)


def wait_for_pieces(folder, count, process):
    end = time.monotonic() + 60
    while len(list(folder.glob("*.npz"))) < count:
        assert process.poll() is None, "made before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_the_same_command_goes_on_after_kill(tmp_path, expected, workers):
    out = tmp_path / "rooms.h5"
    command = [sys.executable, "-m", "pyro_sri", "data", "make", "rooms", "--out", str(out), "--workers", workers]
    for pieces in (1, 3):
        process = subprocess.Popen([*command, *WORDS], stderr=subprocess.PIPE, start_new_session=True)
        wait_for_pieces(tmp_path / "rooms.h5.parts", pieces, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert [path.name for path in tmp_path.iterdir()] == ["rooms.h5.parts"]
    done = subprocess.run([*command, *WORDS], capture_output=True, text=True, check=True)
    assert "already finished" in done.stderr
    assert list(tmp_path.iterdir()) == [out]
    assert content(out) == expected


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on(tmp_path, expected):
    out = tmp_path / "rooms.h5"
    command = [sys.executable, "-m", "pyro_sri", "data", "make", "rooms", "--out", str(out), *WORDS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_pieces(tmp_path / "rooms.h5.parts", 1, process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130
    assert "run the same command again to continue" in errors
    assert make_dataset("rooms", out, size=32, train=NUM, val=0, test=3, seed=4) >= 1
    assert content(out) == expected


def interrupted(out, after, **changes):
    """Stop after so many reports."""

    def progress(*_):
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(
            "rooms", out, **({"size": 32, "train": NUM, "val": 0, "test": 3, "seed": 4} | changes), progress=progress
        )


def test_pieces_that_are_there_are_not_made_again(tmp_path, expected, monkeypatch):
    out = tmp_path / "rooms.h5"
    interrupted(out, 3)
    drawn = []
    monkeypatch.setattr(making, "draw", lambda task: drawn.append((task.split, task.start)) or draw(task))
    assert make_dataset("rooms", out, size=32, train=NUM, val=0, test=3, seed=4) == 3
    assert drawn == [("train", 96), ("train", 128), ("test", 0)]
    assert content(out) == expected


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: b"", lambda data: data[:999] + b"x" + data[1000:]]
)
def test_a_damaged_piece_is_made_again(tmp_path, expected, damage):
    out = tmp_path / "rooms.h5"
    interrupted(out, 3)
    piece = tmp_path / "rooms.h5.parts" / "train-000000032.npz"
    piece.write_bytes(damage(piece.read_bytes()))
    make_dataset("rooms", out, size=32, train=NUM, val=0, test=3, seed=4)
    assert content(out) == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 5}, "seed"), ({"size": 48}, "size"), ({"train": 999}, "train"), ({"test": 0}, "test")],
)
def test_pieces_of_another_data_set_are_refused(tmp_path, change, named):
    out = tmp_path / "rooms.h5"
    interrupted(out, 2)
    before = sorted(path.name for path in (tmp_path / "rooms.h5.parts").iterdir())
    arguments = {"size": 32, "train": NUM, "val": 0, "test": 3, "seed": 4} | change
    with pytest.raises(UserError, match=f"other values of {named};") as caught:
        make_dataset("rooms", out, **arguments)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "rooms.h5.parts").iterdir()) == before


def test_the_folder_says_what_it_is(tmp_path):
    interrupted(tmp_path / "rooms.h5", 2)
    recipe = json.loads((tmp_path / "rooms.h5.parts" / "recipe.json").read_text())
    assert "rooms.h5" in recipe["explanation"]
    assert (recipe["generator"], recipe["seed"], recipe["train"]) == ("rooms", 4, NUM)


def test_two_processes_do_not_make_the_same_file(tmp_path):
    out = tmp_path / "a.h5"
    with pieces_of(out, {"seed": 1}), pytest.raises(UserError, match="another process"), pieces_of(out, {"seed": 1}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failure_before_the_first_piece_leaves_nothing(tmp_path):
    def fail(*_):
        raise MemoryError

    with pytest.raises(MemoryError), pieces_of(tmp_path / "a.h5", {}):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        make_dataset("stacks", tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_piece_is_read_back(tmp_path):
    drawn, pieces = (
        draw(Task("tetrominoes", "val", 0, 5, 35, 0, making.find_generator("tetrominoes").options())),
        Pieces(tmp_path),
    )
    assert pieces.load("val", 0) is None
    pieces.save("val", 0, drawn)
    for kept, made in zip(pieces.load("val", 0), drawn, strict=True):
        np.testing.assert_array_equal(kept, made)
        assert kept.dtype == made.dtype


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*parts"):
        make_dataset("tetrominoes", tmp_path / "file" / "a.h5", train=1, val=0, test=0)
