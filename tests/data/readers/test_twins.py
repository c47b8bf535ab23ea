"""Masks that no name betrays, beside images: they must not become images."""

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.finding import find_pictures
from pyro_sri.system.errors import UserError

NUM = 5


def scene(seed, size=32):
    """Flat rectangles on grey, and their masks in other colours."""
    rng = np.random.default_rng(seed)
    image, masks = np.full((size, size, 3), 128, np.uint8), np.zeros((size, size, 3), np.uint8)
    for colour in rng.permutation(255 * np.eye(3, dtype=np.uint8)):
        top, left = rng.integers(0, size - 12, 2)
        image[top : top + 12, left : left + 12] = rng.integers(0, 256, 3)
        masks[top : top + 12, left : left + 12] = colour
    return image, masks


def photograph(seed):
    """The same scene with noise, and its distances, in grey."""
    image, masks = scene(seed)
    noise = np.random.default_rng(seed).integers(0, 60, image.shape)
    return (image // 2 + noise).astype(np.uint8), np.asarray(Image.fromarray(masks).convert("L"))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


PLACES = {
    "the same names": ("{}.bmp", "{}.png"),
    "sister folders": ("pictures/{}.png", "colours/{}.png"),
    "inside of folders": ("pictures/cats/{}.png", "colours/cats/{}.png"),
    "splits": ("pictures/train/{}.png", "colours/train/{}.png"),
    "words before": ("a_{}.png", "b_{}.png"),
    "words and folders": ("pictures/a_{}.png", "colours/b_{}.png"),
    "words after": ("{}.png", "{}_c.png"),
    "folders of scenes": ("scene_{}/image.png", "scene_{}/colours.png"),
}


@pytest.mark.parametrize("draw", [scene, photograph])
@pytest.mark.parametrize(("ours", "theirs"), PLACES.values(), ids=PLACES)
def test_what_seems_to_be_masks_is_refused(tmp_path, ours, theirs, draw):
    for index in range(NUM):
        for place, pixels in zip((ours, theirs), draw(index), strict=True):
            save(tmp_path / place.format(index), pixels)
    with pytest.raises(UserError, match="--masks"):
        find_pictures(tmp_path)


def test_masks_of_some_pictures_are_noticed(tmp_path):
    for index in range(NUM):
        save(tmp_path / "pictures" / f"{index}.png", scene(index)[0])
    for index in range(3):
        save(tmp_path / "colours" / f"{index}.jpg", photograph(index)[1], quality=90)
    with pytest.raises(UserError, match="--masks"):
        find_pictures(tmp_path)


def test_names_without_numbers(tmp_path):
    for index, name in enumerate(("anna", "Bert", "ça", "塔")):
        for word, pixels in zip(("", "_c"), scene(index), strict=True):
            save(tmp_path / f"{name}{word}.png", pixels)
    with pytest.raises(UserError, match="--masks"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("cats/{}.png", "dogs/{}.png"), ("cat_{}.png", "dog_{}.png"), ("train/{}.png", "test/{}.png")],
)
@pytest.mark.parametrize("draw", [scene, photograph])
def test_classes_with_the_same_names_are_images(tmp_path, ours, theirs, draw):
    for index in range(NUM):
        for seed, place in ((index, ours), (100 + index, theirs)):
            save(tmp_path / place.format(index), draw(seed)[0])
    assert sum(map(len, find_pictures(tmp_path).images.values())) == 2 * NUM


def test_views_of_a_scene_are_images(tmp_path):
    for index in range(NUM):
        save(tmp_path / "left" / f"{index}.png", photograph(index)[0])
        save(tmp_path / "right" / f"{index}.png", np.roll(photograph(index)[0], 1, axis=1))
    convert(tmp_path, tmp_path / "a.h5", size=32, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.num_images("train") == 2 * NUM
