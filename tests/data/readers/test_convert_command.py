import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import READERS
from pyro_sri.scripts.cli import parse
from pyro_sri.scripts.convert import convert
from pyro_sri.system.errors import UserError


def run(*words):
    return parse(convert, "pyro-sri data convert", [str(word) for word in words])


@pytest.fixture
def photos(tmp_path):
    for index in range(5):
        image = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_it_says_what_it_made(tmp_path, photos, capsys):
    out = tmp_path / "a.h5"
    run(photos, "--out", out, "--size", 16, "--val", 1, "--test", 2)
    printed = capsys.readouterr()
    assert printed.out == f"converted {photos} to {out}: folder, 2 train, 1 val, 2 test images of 16 pixels\n"
    cut, split, sizes = printed.err.splitlines()
    assert "made smaller, from 20 to 16 pixels" in cut
    assert split == "note: 5 images were shuffled with seed 0 and split: 2 train, 1 val, 2 test"
    assert "SRI and GENESIS-v2 train on images of 32, 64, 96, 128 pixels, not 16" in sizes


def test_every_option_arrives(tmp_path, capsys):
    folder = tmp_path / "mnist"
    folder.mkdir()
    images = np.zeros((3, 28, 28), np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", images[:, 0, 0])):
        content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    out = tmp_path / "a.h5"
    run(folder, "--out", out, "--format", "mnist", "--train", 4, "--val", 3, "--seed", 9, "--max-objects", 3)
    with DatasetFile(out) as file:
        assert (file.num_images("train"), file.num_images("val")) == (4, 3)
        assert (file.attributes["seed"], file.attributes["max_objects"]) == (9, 3)
    run(folder, "--out", tmp_path / "b.h5", "--train", 1, "--val", 0)
    assert "multi_mnist, 1 train images of 50 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--cameras", 1, 2], "--cameras does not apply to folder"),
        (["--split-name", "default"], "--split-name does not apply to folder"),
        (["--format", "tf"], "--format"),
        (["--train", "many"], "--train"),
        (["--format", "shapestacks", "--cameras", 1, 2], "recordings/SCENARIO"),
        (["--test", -1], "--test -1"),
        (["--val", 1000], "5 images"),
        (["--background-entities"], "give masks with --masks"),
    ],
)
def test_mistakes_are_one_line(tmp_path, photos, words, expected):
    with pytest.raises(UserError) as caught:
        run(photos, "--out", tmp_path / "a.h5", *words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "pyro-sri data convert " in printed.partition("For example:")[2]
    for name in READERS:
        assert f"{name}: " in printed
