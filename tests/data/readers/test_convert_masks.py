"""Folders of images with folders of masks, written with Pillow."""

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.finding import find_masks, find_pictures
from pyro_sri.data.readers.mask_files import pair_masks
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


def save_palette(path, places, colours):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(places)
    picture.putpalette(np.ravel(colours).tolist())
    picture.save(path)


BLACK, RED, GREEN, WHITE = (0, 0, 0), (200, 10, 0), (10, 20, 30), (255, 255, 255)


@pytest.mark.parametrize(
    ("palettes", "how"),
    [
        ([[BLACK, RED, GREEN], [GREEN, BLACK, RED]], "value 0 is"),  # differ: black is the background
        ([[WHITE, RED, GREEN], [RED, GREEN, WHITE]], "colour #ffffff is"),  # differ: most maps have white
        ([[RED, BLACK, GREEN]] * 2, "value 0 is"),  # the same: numbers, as in VOC and DAVIS
        (None, "value 0 is"),  # written as small as possible: palettes beside greys
    ],
)
def test_palettes_are_read_by_colour_where_they_differ(images, tmp_path, palettes, how):
    for index in range(NUM):
        path, found = tmp_path / "masks" / f"img_{index:04}.png", entities(index)
        if palettes is None:
            greys = found * np.uint8(100)
            save(path, greys) if index % 2 else save_palette(path, found, [BLACK, (100,) * 3, (200,) * 3])
            continue
        palette = palettes[index % 2]
        places = [palette.index(colour) for colour in palettes[0]]
        save_palette(path, np.array(places, np.uint8)[found], palette)
    labels, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    pairs = set(zip(EXPECTED.ravel().tolist(), labels.ravel().tolist(), strict=True))
    assert len(pairs) == 3  # the same regions,
    assert (0, 0) in pairs  # and the same background
    assert how in said[-1]


@pytest.mark.parametrize("name", ["img_{:04}.png", "img_{:04}_1.png"])
@pytest.mark.parametrize("palette", [[BLACK, WHITE], [WHITE, BLACK]])
def test_white_is_inside_whatever_its_place_in_the_palette(images, tmp_path, name, palette):
    for index in range(NUM):
        inside = (entities(index) > 0).astype(np.uint8)
        save_palette(tmp_path / "masks" / name.format(index), inside if palette[0] == BLACK else 1 - inside, palette)
    labels, _ = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    np.testing.assert_array_equal(labels, EXPECTED > 0)


def test_a_black_pixel_is_no_background(images, tmp_path):
    for index in range(NUM):
        found = np.array([WHITE, RED, GREEN], np.uint8)[entities(index)]
        found[0, 0] *= index > 0
        save(tmp_path / "masks" / f"img_{index:04}.png", found)
    labels, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    assert (labels[:, 0, 1:] == 0).all()
    assert "colour #ffffff is the background" in said[-1]
    assert len(np.unique(labels)) == 4  # the pixel is an entity of its own


def test_smoothed_maps_are_refused(images, tmp_path):
    for index in range(NUM):
        found = Image.fromarray(np.array([BLACK, RED, GREEN], np.uint8)[entities(index).repeat(3, 0).repeat(3, 1)])
        save(tmp_path / "masks" / f"img_{index:04}.png", np.asarray(found.resize((SIZE, SIZE), 3)))
    refused(images, tmp_path / "masks", "img_0000.png", "have soft edges", "mixtures of their neighbours")


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        ("éö", "éö"),
        (("e\u0301", "o\u0308"), "éö"),  # as macOS writes them
        (("-1", "1"), ("-1_mask", "1_mask")),
        (("1.5", "1_5"), ("mask_1.5", "mask_1_5")),
        ("Aa", "Aa"),
        (("A/1", "a/1"), ("A/1", "a/1")),
        (("01", "1"), ("01_2", "1_2")),
    ],
)
def test_names_that_differ_only_by_letters_or_signs(tmp_path, names, masks):
    pictures = {}
    for index, (name, mask) in enumerate(zip(names, masks, strict=True)):
        save(tmp_path / "in" / f"{name}.png", image(index))
        save(tmp_path / "masks" / f"{mask}.png", entities(index))
        pictures[str(tmp_path / "in" / f"{name}.png")] = str(tmp_path / "masks" / f"{mask}.png")
    paired, _ = pair_masks(find_pictures(tmp_path / "in").images[None], find_masks(tmp_path / "masks"), tmp_path)
    assert {name: list(files) for name, files in paired.files.items()} == {
        name: [mask] for name, mask in pictures.items()
    }


def test_names_that_leave_a_mask_unclear_are_refused(tmp_path):
    for name, mask in (("a", "mask_a_A"), ("A", "mask_A_a")):
        save(tmp_path / "images" / f"{name}.png", image(0))
        save(tmp_path / "masks" / f"{mask}.png", entities(0))
    refused(tmp_path / "images", tmp_path / "masks", "do not tell which of them", "rename one")


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_image_that_exif_turns_needs_masks_that_are_turned_too(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder, array in (("images", image(0)), ("masks", entities(0))):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "0.png", exif=exif)
    convert(tmp_path / "images", tmp_path / "a.h5", masks=tmp_path / "masks", size=SIZE, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        turns = 2 if orientation == 3 else -1
        np.testing.assert_array_equal(file.images("train")[0], np.rot90(image(0), turns))
        np.testing.assert_array_equal(entity_labels(file.masks("train")[:])[0], np.rot90(entities(0), turns))
    save(tmp_path / "masks" / "0.png", entities(0))
    refused(tmp_path / "images", tmp_path / "masks", "turned by its EXIF orientation, but its mask")


def test_strays_are_named(images, tmp_path):
    for index in range(NUM + 2):
        save(tmp_path / "masks" / f"img_{index:04}.png", entities(index))
    _, said = converted(images, tmp_path / "masks", tmp_path / "a.h5")
    assert f"2 masks in {tmp_path / 'masks'} belong to no image" in said
