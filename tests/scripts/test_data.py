import dataclasses

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.writing import write_dataset
from pyro_sri.scripts.data import COMMANDS, main
from pyro_sri.system.errors import UserError


def run(*words):
    main([str(word) for word in words])


def refused(*words):
    with pytest.raises(UserError) as caught:
        run(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "pieces.h5"
    run("make", "tetrominoes", "--out", path, "--train", 12, "--val", 2, "--test", 0, "--seed", 3, "--num-pieces", 2)
    return path


def test_make(pieces):
    with DatasetFile(pieces) as file:
        assert (file.num_images("train"), file.num_images("val")) == (12, 2)
        assert (file.image_size, file.num_entities("train")) == (35, 3)
        assert (file.attributes["seed"], file.attributes["num_pieces"]) == (3, 2)


def test_make_says_what_it_made(tmp_path, capsys):
    out = tmp_path / "a.h5"
    words = ("--size", 32, "--train", 3, "--val", 0, "--test", 0, "--max-objects", 2, "--variant", "binarized")
    run("make", "multi_dsprites", "--out", out, *words)
    printed = capsys.readouterr()
    assert printed.out == f"made {out}: generated multi_dsprites, 3 train, 0 val, 0 test images\n"
    assert printed.err == ""


def test_info_says_generated_and_everything_else(pieces, capsys):
    run("info", pieces)
    printed = " ".join(capsys.readouterr().out.split())
    with DatasetFile(pieces) as file:
        expected = (
            file.content_hash(),
            "pieces.h5 (generated)",
            "tetrominoes, version 1",
            "num_pieces 2",
            "seed 3",
            "35 x 35 x 3",
            "2: 12",
            "quarter_turns",
        )
    for words in expected:
        assert words in printed


def test_preview(pieces, tmp_path, capsys):
    run("preview", pieces, "--out", tmp_path / "a.png", "--num", 2, "--split", "val")
    assert capsys.readouterr().out == f"drew {tmp_path / 'a.png'}\n"
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.png")).reshape(-1, 3), axis=0)) > 5


def test_check(pieces, tmp_path, capsys):
    run("check", pieces)
    printed = capsys.readouterr()
    assert printed.out == f"{pieces} is sound\n"
    assert printed.err == ""
    (tmp_path / "cut.h5").write_bytes(pieces.read_bytes()[:-1])
    assert "truncated" in refused("check", tmp_path / "cut.h5")


def test_mistakes_are_one_line(pieces, tmp_path, capsys):
    out = tmp_path / "a.h5"
    assert "did you mean multi_dsprites?" in refused("make", "multi-dsprites", "--out", out)
    assert "already exists" in refused("make", "tetrominoes", "--out", pieces)
    assert "Unrecognized options: --max-objects" in refused("make", "tetrominoes", "--out", out, "--max-objects", 3)
    assert "size 8" in refused("make", "tetrominoes", "--out", out, "--size", 8)
    assert "no file" in refused("info", tmp_path / "none.h5")
    assert "no split 'test'" in refused("preview", pieces, "--out", tmp_path / "a.png", "--split", "test")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as caught:
        run(command, *(["towers"] if command == "make" else []), "--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert f"pyro-sri data {command} " in printed.partition("For example:")[2]


def test_help_of_make_names_every_family_with_its_size(capsys):
    run("make", "--help")
    printed = capsys.readouterr().out.splitlines()
    for name, family in GENERATORS.items():
        assert f"{name} ({family.default_size} pixels): {family.description}" in printed


@pytest.mark.parametrize("name", GENERATORS)
def test_a_family_says_what_its_options_are(name, capsys):
    with pytest.raises(SystemExit) as caught:
        run("make", name, "--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for option in dataclasses.fields(GENERATORS[name].options):
        assert f"--{option.name.replace('_', '-')}" in printed


def test_make_with_options_of_towers(tmp_path, capsys):
    out = tmp_path / "towers.h5"
    words = ("--train", 6, "--val", 0, "--test", 0, "--max-objects", 3, "--shapes", "box", "wedge")
    run("make", "towers", "--out", out, *words, "--variant", "any_colours")
    with DatasetFile(out) as file:
        assert file.attributes["shapes"] == ["box", "wedge"]
        assert file.attributes["variant"] == "any_colours"
        assert file.background_entities == (0, 1)
        assert file.image_size == 32
    assert "was not made by" in refused("audit", out)


def test_make_with_options_of_stacks_and_audit(tmp_path, capsys):
    out = tmp_path / "broken.h5"
    words = ("--size", 32, "--train", 6, "--val", 0, "--test", 0, "--zoom", 1.5, "--max-objects", 3)
    run("make", "stacks_broken", "--out", out, *words, "--kinds", "gap", "sunk", "--cameras", 1, 10)
    with DatasetFile(out) as file:
        assert file.attributes["kinds"] == ["gap", "sunk"]
        assert file.attributes["cameras"] == [1, 10]
        names = file.attributes["factor_names"]
        assert set(file.factors("train")[:, 0, names.index("camera")]) <= {1, 10}
    capsys.readouterr()
    run("audit", out, "--num", 6)
    assert capsys.readouterr().out == "0 of 6 towers stand\nfallen: 0 1 2 3 4 5\n"
    assert "invalid choice 'wobbly' for argument '--kinds'" in refused(
        "make", "stacks_broken", "--out", tmp_path / "b.h5", "--kinds", "wobbly"
    )
    assert "cameras [17]" in refused("make", "stacks", "--out", tmp_path / "b.h5", "--cameras", 17)
    assert list(tmp_path.iterdir()) == [out]


def test_suggest_says_how_to_train(pieces, tmp_path, capsys):
    path = tmp_path / "my pieces.h5"
    run("convert", pieces, "--out", path, "--size", 32)
    capsys.readouterr()
    run("suggest", path)
    printed = capsys.readouterr()
    for words in ("slots", "sigma", "target", "gaussian", "pyro-sri train sri-own --data", "runs/my pieces"):
        assert words in printed.out
    assert "convert" not in printed.out
    assert "12 training images are few" in printed.err


def test_suggest_resizes_first_where_it_must(pieces, capsys):
    run("suggest", pieces)  # 35 x 35
    printed = capsys.readouterr().out
    assert f"--out {pieces.with_name('pieces-32.h5')} --size 32" in " ".join(printed.split())
    assert f"--data {pieces.with_name('pieces-32.h5')}" in " ".join(printed.split())


def test_check_says_how_many_warnings(tmp_path, capsys):
    path = tmp_path / "dark.h5"
    write_dataset(path, {"train": [SceneArrays(np.ones((2, 8, 8, 3), np.uint8))]}, {})
    run("check", path)
    printed = capsys.readouterr()
    assert printed.out == f"{path} is sound, with 1 warning\n"
    assert printed.err.startswith("warning: train/imgs have no value above 1 of 255")
