import json

import h5py
import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.making import make_dataset
from pyro_sri.data.preview import BACKGROUND_COLOURS, OBJECT_COLOURS, colour_masks, contact_sheet, info
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    path = tmp_path_factory.mktemp("preview") / "sprites.h5"
    make_dataset("multi_dsprites", path, size=32, train=20, val=0, test=3, options={"max_objects": 3})
    return path


@pytest.fixture
def bare(tmp_path):
    """A file of two grey images without masks."""
    path = tmp_path / "bare.h5"
    write_dataset(path, {"train": [SceneArrays(np.full((2, 8, 8, 3), 77, np.uint8))]}, {})
    return path


def test_the_sheet_shows_images_and_masks(sprites, tmp_path):
    contact_sheet(sprites, tmp_path / "new" / "sheet.png", num=10)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape[2] == 3
    assert 200 < sheet.shape[1] <= 1760
    colours = {tuple(colour) for colour in np.unique(sheet.reshape(-1, 3), axis=0)}
    with DatasetFile(sprites) as file:
        shown = file.images("train")[:][np.random.default_rng(0).permutation(20)[:10]]
    assert {tuple(colour) for colour in shown.reshape(-1, 3)} <= colours
    assert {tuple(colour) for colour in (*OBJECT_COLOURS[:3], BACKGROUND_COLOURS[0])} <= colours


def test_the_title_says_generated(sprites, bare, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, place, text, **rest: titles.append(text))
    contact_sheet(sprites, tmp_path / "a.png", num=500, split="test")
    contact_sheet(bare, tmp_path / "b.png")
    contact_sheet(sprites, tmp_path / "c.png", num=5, seed=7)
    assert titles == [
        "multi_dsprites, generated, seed 0  |  test, 3 of 3  |  32 px  |  right: instance masks",
        "bare.h5, source unknown  |  train, 2 of 2  |  8 px",
        "multi_dsprites, generated, seed 0  |  train, 5 of 20 at random (seed 7)  |  32 px  |  right: instance masks",
    ]


def test_masks_in_colour(sprites):
    masks = np.zeros((1, 4, 1, 4, 1), dtype=np.uint8)
    masks[0, [0, 1, 3], 0, [0, 1, 2]] = 255
    with DatasetFile(sprites) as file:
        np.testing.assert_array_equal(
            colour_masks(masks, file)[0, 0], [BACKGROUND_COLOURS[0], OBJECT_COLOURS[0], OBJECT_COLOURS[2], [0, 0, 0]]
        )
        file.attributes["background_entities"] = [0, 1]
        np.testing.assert_array_equal(
            colour_masks(masks, file)[0, 0], [*BACKGROUND_COLOURS[:2], OBJECT_COLOURS[1], [0, 0, 0]]
        )


def test_a_preview_is_refused_in_one_line(sprites, bare, tmp_path):
    (tmp_path / "there.png").touch()
    for out, options, word in (
        (tmp_path / "there.png", {}, "exists"),
        (tmp_path / "a.jpg", {}, ".png"),
        (tmp_path / "a.png", {"num": 0}, "empty"),
        (tmp_path / "a.png", {"split": "val"}, "no split 'val'"),
        (bare / "a.png", {}, "cannot write"),
    ):
        with pytest.raises(UserError) as caught:
            contact_sheet(sprites, out, **options)
        one_line(caught, word)


def test_info(sprites):
    summary = json.loads(json.dumps(info(sprites)))
    with DatasetFile(sprites) as file:
        objects = (file.masks("test")[:] > 0).any((2, 3, 4))[:, 1:].sum(1).tolist()
        background = (file.masks("test")[:, 0] > 0).mean()
        assert summary.pop("content_hash") == file.content_hash()
    train, test = summary["splits"].pop("train"), summary["splits"].pop("test")
    assert sum(train["objects_per_scene"].values()) == 20
    assert set(train["objects_per_scene"]) <= {"2", "3"}
    assert test == {
        "num_images": 3,
        "images": [3, 32, 32, 3],
        "masks": [3, 4, 32, 32, 1],
        "factors": [3, 4, 9],
        "objects_per_scene": {str(count): objects.count(count) for count in sorted(set(objects))},
        "background_share": pytest.approx(background),
    }
    assert summary == {
        "path": str(sprites),
        "source": "generated",
        "generated": True,
        "generator": "multi_dsprites",
        "generator_version": 1,
        "parameters": {"seed": 0, "size": 32, "min_objects": 2, "max_objects": 3, "variant": "colored_on_grayscale"},
        "factor_names": ["visible", "shape", "red", "green", "blue", "x", "y", "scale", "angle"],
        "image_size": 32,
        "background_entities": [0],
        "splits": {},
        "unused": [],
    }


def test_info_of_a_bare_file(bare):
    summary = info(bare)
    assert (summary["source"], summary["generated"], summary["generator"]) == ("unknown", False, None)
    assert summary["splits"]["train"] == {
        "num_images": 2,
        "images": [2, 8, 8, 3],
        "masks": None,
        "factors": None,
        "objects_per_scene": None,
        "background_share": None,
    }


def test_objects_are_counted_without_any_background(tmp_path):
    masks = np.zeros((3, 4, 2, 2, 1), dtype=np.uint8)
    masks[:, :2, 0] = 255
    masks[1, 2, 1, 1] = masks[2, 2, 1, 0] = masks[2, 2:, 1, 1] = 255  # where two overlap the higher is in front
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/imgs"] = np.zeros((3, 2, 2, 3), np.uint8)
        file["train/masks"] = masks
        file.attrs["background_entities"] = [0, 1]
    train = info(tmp_path / "a.h5")["splits"]["train"]
    assert train["objects_per_scene"] == {0: 1, 1: 1, 2: 1}
    assert train["background_share"] == pytest.approx((1 + 3 / 4 + 2 / 4) / 3)
