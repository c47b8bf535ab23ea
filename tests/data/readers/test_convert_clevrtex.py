"""A small folder of ClevrTex, in its published layout."""

import json

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.clevrtex import FACTOR_NAMES
from pyro_sri.metrics import entity_labels
from pyro_sri.system.errors import UserError

NUM = 10


def flat(index):
    entities = np.zeros((240, 320), np.uint8)
    for number in range(1, 4):
        entities[40 * number : 40 * number + 30, 80 + 4 * index : 140 + 4 * index] = number
    return entities


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def objects(index):
    return [
        {"shape": shape, "size": "small", "rotation": 10.0 * place, "3d_coords": [1, 2, 3], "pixel_coords": [4, 5, 6]}
        | {"index": place, "material": "PoliigonMetal" if index % 2 else "Brick", "color": None}
        for place, shape in enumerate(("sphere", "cube", "monkey"), 1)
    ]


def write(folder, variant="full", num=NUM):
    for index in range(num):
        place = folder / str(index // 4)
        place.mkdir(parents=True, exist_ok=True)
        name = f"CLEVRTEX_{variant}_{index:06}"
        Image.fromarray(picture(index)).save(place / f"{name}.png")
        Image.fromarray(flat(index)).convert("P").save(place / f"{name}_flat.png")
        Image.fromarray(flat(index)).save(place / f"{name}_depth_0001.png")
        (place / f"{name}.json").write_text(json.dumps({"objects": objects(index)[::-1]}))
    return folder


@pytest.fixture
def clevrtex(tmp_path):
    return write(tmp_path / "clevrtex_full")


def test_clevrtex_as_published(clevrtex, tmp_path):
    said = convert(clevrtex, tmp_path / "a.h5")
    check_dataset(tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        counts = {split: file.num_images(split) for split in file.splits}
        assert counts == {"train": 8, "val": 1, "test": 1}
        assert (file.image_size, file.num_entities("train")) == (128, 11)
        small = Image.fromarray(picture(0)[24:216, 64:256]).resize((128, 128), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(file.images("test")[0], np.asarray(small))
        expected = Image.fromarray(flat(3)[24:216, 64:256]).resize((128, 128), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(entity_labels(file.masks("train")[1:2])[0], np.asarray(expected))
        factors = dict(zip(FACTOR_NAMES, file.factors("train")[1].T, strict=True))
        assert factors["visible"].tolist() == [0, 1, 1, 1] + 7 * [0]
        shapes = file.attributes["shapes"]
        assert [shapes[int(number)] for number in factors["shape"][1:4]] == ["sphere", "cube", "monkey"]
        assert factors["rotation"][1:4].tolist() == [10, 20, 30]
        assert file.attributes["dataset"] == "clevrtex_full"
        assert file.attributes["crop"] == [24, 216, 64, 256]
        assert file.factor_fault("train") is None
    assert "as the authors do: 8 train, 1 val, 1 test" in said[1]


def test_the_variant_without_splits_is_all_test(tmp_path):
    convert(write(tmp_path / "in", "outd", 3), tmp_path / "a.h5", size=32)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("test",)
        assert file.num_images("test") == 3


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda place: (place / "CLEVRTEX_full_000001_flat.png").unlink(), "000001_flat.png is missing"),
        (
            lambda place: (place / "CLEVRTEX_full_000001.json").write_text("{}"),
            "000001.json does not describe up to 10 objects",
        ),
        (
            lambda place: (place / "CLEVRTEX_full_000001.json").write_text('{"objects": []}'),
            "not a map of the 0 objects",
        ),
        (lambda place: Image.new("L", (9, 9)).save(place / "CLEVRTEX_full_000001_flat.png"), "9 x 9 pixels"),
        (lambda place: write(place.parent / "more", "camo", 1), "several variants"),
    ],
)
def test_what_is_wrong_is_named(clevrtex, tmp_path, damage, words):
    damage(clevrtex / "0")
    with pytest.raises(UserError) as caught:
        convert(clevrtex, tmp_path / "a.h5")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.h5").exists()
