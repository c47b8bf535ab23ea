"""Folders of images with folders of masks, written with Pillow."""

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.metrics import entity_labels
from pyro_sri.system.errors import UserError

SIZE, NUM = 16, 4


def image(index):
    return np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def entities(index):
    """Two rectangles that do not touch, the second only in some scenes."""
    found = np.zeros((SIZE, SIZE), np.uint8)
    found[2:6, 1 + index : 5 + index] = 1
    if index % 2:
        found[9:14, 3:9] = 2
    return found


EXPECTED = np.stack([entities(index) for index in range(NUM)])


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path)


@pytest.fixture
def images(tmp_path):
    for index in range(NUM):
        save(tmp_path / "images" / f"img_{index:04}.png", image(index))
    return tmp_path / "images"


def converted(images, masks, out, **options):
    """Everything as one split, in the order of names."""
    said = convert(images, out, masks=masks, size=SIZE, val=0, test=0, **options)
    check_dataset(out)
    with DatasetFile(out) as file:
        np.testing.assert_array_equal(file.images("train")[:], [image(index) for index in range(NUM)])
        return entity_labels(file.masks("train")[:]), said


def refused(images, masks, *words, **options):
    out = images.parent / "refused.h5"
    with pytest.raises(UserError) as caught:
        convert(images, out, masks=masks, size=SIZE, val=0, test=0, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("name", ["img_{:04}", "mask_{}", "{}_seg", "nested/img_{:04}"])
@pytest.mark.parametrize("coding", ["index", "sixteen", "palette", "greys", "colours", "on white"])
def test_a_map_for_each_image(images, tmp_path, name, coding):
    for index in range(NUM):
        found, path = entities(index), tmp_path / "masks" / f"{name.format(index)}.png"
        if coding == "sixteen":
            save(path, found.astype(np.uint16))
        elif coding == "palette":
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(found)
            picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            picture.save(path)
        elif coding == "greys":
            save(path, found * np.uint8(100))
        elif coding == "index":
            save(path, found)
        else:
            table = [(0, 0, 0) if coding == "colours" else (255, 255, 255), (10, 20, 30), (200, 10, 0)]
            save(path, np.array(table, np.uint8)[found])
    labels, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    np.testing.assert_array_equal(labels, EXPECTED)
    background = {"on white": "colour #ffffff"}.get(coding, "value 0")
    assert any(f"one map for each image, {background} is the background" in sentence for sentence in said)


@pytest.mark.parametrize("name", ["img_{:04}_{}", "img_{:04}/{}", "{}_object_{}", "mask-{:04}-{}"])
@pytest.mark.parametrize("coding", [255, 1, "alpha", "soft"])
def test_a_file_for_each_object(images, tmp_path, name, coding):
    for index in range(NUM):
        for place, number in enumerate((1, 2) if index % 2 else (1,), 9):  # 9 comes before 10
            inside = entities(index) == number
            path = tmp_path / "masks" / f"{name.format(index, place)}.png"
            if coding == "alpha":
                save(path, np.stack([*image(index).transpose(2, 0, 1), inside * np.uint8(255)], axis=-1))
            elif coding == "soft":
                save(path, np.where(inside, 255, 40).astype(np.uint8) if index < NUM else None)
            else:
                save(path, inside * np.uint8(coding))
    labels, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    np.testing.assert_array_equal(labels, EXPECTED)
    assert any("one file for each object" in sentence for sentence in said)


def test_objects_with_higher_numbers_are_in_front(images, tmp_path):
    for index in range(NUM):
        for number in (1, 2, 10):
            inside = np.zeros((SIZE, SIZE), np.uint8)
            inside[number : number + 5] = 255
            save(tmp_path / "masks" / f"img_{index:04}_{number}.png", inside)
        save(tmp_path / "masks" / f"img_{index:04}_background.png", np.full((SIZE, SIZE), 255, np.uint8))
    labels, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    assert labels[0, :, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 0, 0, 0, 3, 3, 3, 3, 3, 0]
    assert any("overlap in 4 of 4 scenes" in sentence for sentence in said)


def test_masks_beside_their_images(tmp_path):
    for index in range(NUM):
        save(tmp_path / "in" / f"{index}.png", image(index))
        save(tmp_path / "in" / f"{index}_mask.png", entities(index))
    labels, _ = converted(tmp_path / "in", tmp_path / "in", tmp_path / "a.h5")
    np.testing.assert_array_equal(labels, EXPECTED)


def test_masks_follow_their_images_into_the_splits(tmp_path):
    for index in range(NUM):
        split = ("train", "validation")[index % 2]
        save(
            tmp_path / "in" / split / "images" / "0.png" if index < 2 else tmp_path / "in" / split / "1.png",
            image(index),
        )
        save(tmp_path / "masks" / split.upper() / f"{index // 2}.png", entities(index))
    convert(tmp_path / "in", tmp_path / "a.h5", masks=tmp_path / "masks", size=SIZE)
    with DatasetFile(tmp_path / "a.h5") as file:
        for place, split in enumerate(("train", "val")):
            order = [
                int(np.argmax([(picture == image(index)).all() for index in range(NUM)]))
                for picture in file.images(split)[:]
            ]
            assert sorted(order) == [place, place + 2]
            np.testing.assert_array_equal(entity_labels(file.masks(split)[:]), EXPECTED[order])


def test_a_shuffled_folder_keeps_images_and_masks_together(images, tmp_path):
    for index in range(NUM):
        save(tmp_path / "masks" / f"img_{index:04}.png", entities(index))
    convert(images, tmp_path / "a.h5", masks=tmp_path / "masks", size=SIZE, seed=5)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("train", "val", "test")
        for split in file.splits:
            for picture, masks in zip(file.images(split)[:], file.masks(split)[:], strict=True):
                index = next(index for index in range(NUM) if (picture == image(index)).all())
                np.testing.assert_array_equal(entity_labels(masks[None])[0], entities(index))


def test_masks_are_cut_as_their_images(tmp_path):
    picture, found = np.zeros((20, 33, 3), np.uint8), np.zeros((20, 33), np.uint8)
    picture[4:16, 10:22], found[4:16, 10:22], found[:, :2] = 200, 1, 2
    save(tmp_path / "images" / "0.png", picture)
    save(tmp_path / "masks" / "0.png", found)
    said = convert(tmp_path / "images", tmp_path / "a.h5", masks=tmp_path / "masks", size=40)
    with DatasetFile(tmp_path / "a.h5") as file:
        bright, inside = file.images("train")[0, ..., 0] > 100, file.masks("train")[0, 1, ..., 0] > 0
        assert (bright == inside).mean() > 0.98
    assert "columns 6 to 25 of 20 x 33 pixels and enlarged from 20 to 40 pixels" in said[0]
    assert "in 1 of 1 scenes an entity was lost by cutting and resizing" in said


def test_background_entities_may_be_said(images, tmp_path):
    for index in range(NUM):
        save(tmp_path / "masks" / f"img_{index:04}.png", entities(index))
    converted(images, tmp_path / "masks", tmp_path / "a.h5", background_entities=[0, 1])
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.background_entities == (0, 1)
    refused(images, tmp_path / "masks", "0 to 2", background_entities=[3])
    refused(images, None, "give masks with --masks", background_entities=[0])


def test_masks_that_do_not_fit_are_refused(images, tmp_path):
    masks = tmp_path / "masks"
    refused(images, masks, "no folder")
    masks.mkdir()
    refused(images, masks, "has no masks")
    for index in range(NUM - 1):
        save(masks / f"img_{index:04}.png", entities(index))
    refused(images, masks, "1 of 4 images have no mask", "img_0003.png")
    save(masks / "img_0003.png", entities(3)[:, :8])
    refused(images, masks, "img_0003.png has 16 x 8 pixels, and the image has 16 x 16")
    save(masks / "img_0003.png", image(3))
    refused(images, masks, "img_0003.png has 256 values or colours")
    save(masks / "img_0003.png", entities(3))
    save(masks / "img_0003_1.png", entities(3))
    refused(images, masks, "is unclear")
    (masks / "img_0003_1.png").unlink()
    save(masks / "mask_0003.png", entities(3))
    refused(images, masks, "both seem to be the same mask")


def test_inverted_and_covering_object_masks_are_refused_or_named(images, tmp_path):
    for index in range(NUM):
        for number in range(3):
            inside = np.zeros((SIZE, SIZE), np.uint8)
            inside[5 * number : 5 * number + 5] = 255
            save(tmp_path / "inverted" / f"img_{index:04}_{number}.png", 255 - inside)
            whole = np.full_like(inside, 255) if number == 2 else inside
            save(tmp_path / "covered" / f"img_{index:04}_{number}.png", whole)
            behind = np.full_like(inside, 255) if number == 0 else inside
            save(tmp_path / "behind" / f"img_{index:04}_{number}.png", behind)
    refused(images, tmp_path / "inverted", "are inverted")
    refused(images, tmp_path / "covered", "in front of others")
    _, said = converted(images, tmp_path / "behind", tmp_path / "a.h5")
    assert "leave 0 % of the pixels to the background" in said[-1]


def test_strays_are_named(images, tmp_path):
    for index in range(NUM + 2):
        save(tmp_path / "masks" / f"img_{index:04}.png", entities(index))
    _, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    assert f"2 masks in {tmp_path / 'masks'} belong to no image" in said
