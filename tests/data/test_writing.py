import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import SceneArrays
from pyro_sri.data.writing import _Output, write_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line


def some_scenes(num, seed=0):
    """Noise in halves: two entities, whose masks are a partition."""
    images = np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    masks = np.zeros((num, 2, 8, 8, 1), dtype=np.uint8)
    masks[:, 0, :5] = masks[:, 1, 5:] = 255
    return SceneArrays(images, masks, np.ones((num, 2, 3), dtype=np.float32))


def test_an_existing_file_is_never_touched(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(UserError) as caught:
        write_dataset(tmp_path / "a.h5", {"train": [some_scenes(2)]}, {})
    one_line(caught, "a.h5", "exists", "another name")
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_a_failure_on_the_way_leaves_nothing_behind(tmp_path):
    def pieces():
        yield some_scenes(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "new" / "a.h5", {"train": pieces()}, {})
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupt_in_the_middle_of_a_write_is_not_lost(tmp_path, monkeypatch):
    write = _Output.write

    def interrupted_write(self, data):
        signal.raise_signal(signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(_Output, "write", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "a.h5", {"train": [some_scenes(3)]}, {})
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SLOW_WRITER = """
import sys, time
import numpy as np
from pyro_sri.data.format import SceneArrays
from pyro_sri.data.writing import write_dataset

def pieces():
    while True:
        yield SceneArrays(np.zeros((64, 32, 32, 3), np.uint8))
        print("written", flush=True)

write_dataset(sys.argv[1], {"train": pieces()}, {})
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs files without names")
def test_a_kill_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "a.h5")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(20):
            assert process.stdout.readline() == "written\n"
        process.kill()
    assert list(tmp_path.iterdir()) == []


def test_without_nameless_files_a_temporary_one_stands_beside(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_sri.data.writing.OPEN_FILES", tmp_path / "none")

    def pieces():
        assert [path.name for path in tmp_path.iterdir()] == [f"a.h5.{os.getpid()}.tmp"]
        yield some_scenes(3)

    write_dataset(tmp_path / "a.h5", {"train": pieces()}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    check_dataset(tmp_path / "a.h5")


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_that_appears_meanwhile_is_never_touched(tmp_path, monkeypatch, nameless):
    if not nameless:
        monkeypatch.setattr("pyro_sri.data.writing.OPEN_FILES", tmp_path / "none")

    def pieces():
        yield some_scenes(3)
        (tmp_path / "a.h5").write_text("mine")

    with pytest.raises(UserError) as caught:
        write_dataset(tmp_path / "a.h5", {"train": pieces()}, {})
    one_line(caught, "a.h5", "already exists")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_scenes_are_written_from_any_thread(tmp_path):
    thread = threading.Thread(target=write_dataset, args=(tmp_path / "a.h5", {"train": [some_scenes(3)]}, {}))
    thread.start()
    thread.join()
    check_dataset(tmp_path / "a.h5")


def test_scenes_that_break_the_layout_are_not_written(tmp_path):
    scenes = some_scenes(3)
    with pytest.raises(UserError) as caught:
        write_dataset(tmp_path / "a.h5", {"train": [scenes._replace(masks=scenes.masks[:, :, :4])]}, {})
    one_line(caught, "train/masks")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 700, 5_000, 60_000])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError) as caught:
            write_dataset(tmp_path / "a.h5", {"train": (some_scenes(64, seed) for seed in range(8))}, {"seed": 0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    one_line(caught, "cannot write", "a.h5", "free space")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        write_dataset(tmp_path / "file" / "a.h5", {"train": [some_scenes(2)]}, {})
    one_line(caught, "cannot write", "check the folder")
