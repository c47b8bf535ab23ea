"""Folders of images, written with Pillow."""

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.system.errors import UserError


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def refused(source, out, *words, **options):
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not out.exists()


def test_a_folder_is_shuffled_by_the_seed_and_split(tmp_path):
    source = tmp_path / "photos"
    names = ["b.png", "a.bmp", "d/e.webp", "c.PNG", "f.png"]
    for seed, name in enumerate(names):
        save(source / name, noise(16, 16, seed), **({"lossless": True} if name.endswith("webp") else {}))
    (source / "notes.txt").write_text("no image")
    told = []
    said = convert(source, tmp_path / "a.h5", size=16, val=1, test=2, progress=lambda *news: told.append(news))
    in_order = [noise(16, 16, names.index(name)) for name in ("a.bmp", "b.png", "c.PNG", "d/e.webp", "f.png")]
    order = [in_order[place] for place in np.random.default_rng(0).permutation(5)]
    with DatasetFile(tmp_path / "a.h5") as file:
        for split, expected in (("val", order[:1]), ("test", order[1:3]), ("train", order[3:])):
            np.testing.assert_array_equal(file.images(split)[:], expected)
        assert file.attributes == {"source": "folder", "dataset": "photos", "files": ["photos"], "size": 16}
        assert file.masks("train") is None
    assert said == ["5 images were shuffled with seed 0 and split: 2 train, 1 val, 2 test"]
    assert told == [("images of train", 2, 2), ("images of val", 1, 1), ("images of test", 2, 2)]
    convert(source, tmp_path / "b.h5", size=16, val=0, test=0)  # nothing to split: as they come
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], in_order)


@pytest.mark.parametrize(("total", "counts"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (30, (24, 3, 3))])
def test_a_tenth_is_val_and_a_tenth_is_test(tmp_path, total, counts):
    for index in range(total):
        save(tmp_path / "in" / f"{index}.png", noise(8, 8, index))
    convert(tmp_path / "in", tmp_path / "a.h5", size=8, seed=3)
    with DatasetFile(tmp_path / "a.h5") as file:
        splits = {split: file.images(split)[:] for split in file.splits}
    assert tuple(len(splits.get(split, ())) for split in ("train", "val", "test")) == counts
    assert len(np.unique(np.concatenate(list(splits.values())), axis=0)) == total  # each in one split


def test_folders_train_val_test_are_the_splits(tmp_path):
    for split, num in (("train", 3), ("test", 2), ("spare", 1)):
        for index in range(num):
            save(tmp_path / "in" / split / f"{index}.png", noise(64, 64, index))
    convert(tmp_path / "in", tmp_path / "a.h5", train=2)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("train", "test")
        assert (file.num_images("train"), file.num_images("test"), file.image_size) == (2, 2, 64)
        np.testing.assert_array_equal(file.images("test")[1], noise(64, 64, 1))
    refused(tmp_path / "in", tmp_path / "b.h5", "no split val, only train, test", val=1)


def test_the_middle_square_is_kept(tmp_path):
    wide, tall = noise(8, 13, 0), noise(12, 9, 1)
    save(tmp_path / "in" / "0.png", wide)
    save(tmp_path / "in" / "1.png", tall)
    convert(tmp_path / "in", tmp_path / "a.h5", size=8, val=1, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.images("val")[0], wide[:, 2:10])  # 5 too many: 2 go left, 3 right
        expected = Image.fromarray(tall[1:10]).resize((8, 8), Image.Resampling.BILINEAR)  # 3 too many: 1 and 2
        np.testing.assert_array_equal(file.images("train")[0], np.asarray(expected))


def test_every_kind_of_image_becomes_rgb(tmp_path):
    image = Image.fromarray(noise(8, 8))
    kinds = {"0": image.convert("L"), "1": image.convert("RGBA"), "2": image.quantize(16), "3": image.convert("1")}
    for name, kind in kinds.items():
        save(tmp_path / "in" / f"{name}.png", kind)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: the first row is the right side
    save(tmp_path / "in" / "4.png", image, exif=exif)
    convert(tmp_path / "in", tmp_path / "a.h5", size=8, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        for index, kind in enumerate(kinds.values()):
            np.testing.assert_array_equal(file.images("train")[index], np.asarray(kind.convert("RGB")))
        np.testing.assert_array_equal(file.images("train")[4], np.rot90(noise(8, 8), -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_an_unreadable_image_is_named(tmp_path, suffix):
    source, out = tmp_path / "in", tmp_path / "a.h5"
    for name in "abc":
        save(source / f"{name}.{suffix}", noise(32, 32))
    bad = source / f"b.{suffix}"
    content = bad.read_bytes()
    for length in (0, 1, 10, 30, len(content) // 2):
        bad.write_bytes(content[:length])
        refused(source, out, str(bad), "not a valid image", val=0, test=0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        damaged[rng.integers(min(len(content), 200))] = rng.integers(256)
        bad.write_bytes(damaged)
        try:
            convert(source, out, val=0, test=0)
            out.unlink()
        except UserError as error:
            assert str(bad) in str(error)  # noqa: PT017
            assert not out.exists()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_animation_is_no_image(tmp_path, suffix):
    frames = [Image.fromarray(noise(8, 8, index)) for index in range(3)]
    save(tmp_path / "in" / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    refused(tmp_path / "in", tmp_path / "a.h5", f"a.{suffix} has 3 frames or pages instead of one", val=0, test=0)


def test_what_is_refused(tmp_path):
    source, out = tmp_path / "in", tmp_path / "a.h5"
    source.mkdir()
    refused(source, out, str(source), "no images", ".png")
    save(source / "a.png", Image.fromarray(noise(8, 8)[..., 0].astype(np.int32) * 300).convert("I;16"))
    refused(source, out, "a.png", "more than 8 bits", val=0, test=0)
    save(source / "a.png", noise(8, 8))
    refused(source, out, "1 images of", "too few for --val 1000", val=1000)
    refused(source, out, "--max-objects does not apply to folder", max_objects=3)
    (source / "train").mkdir()
    refused(source, out, "train", "no images")
    (source / "train" / "a.png").symlink_to("nowhere")
    refused(source, out, "a.png is missing")


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN_images", "dev", "test-set"),
        ("images/train", "images/valid", "images/Test"),
        ("images_train", "images_val", "images_test"),
        ("my_train", "my_val", "my_test"),
    ],
)
def test_splits_in_any_spelling(tmp_path, names):
    for place, name in enumerate(names):
        for index in range(4):
            save(tmp_path / "in" / name / f"{index}.png", noise(8, 8, 10 * place + index))
    save(tmp_path / "in" / "spare" / "0.png", noise(8, 8, 99))
    said = convert(tmp_path / "in", tmp_path / "a.h5", size=8)
    with DatasetFile(tmp_path / "a.h5") as file:
        for place, split in enumerate(("train", "val", "test")):
            expected = [noise(8, 8, 10 * place + index) for index in range(4)]
            np.testing.assert_array_equal(file.images(split)[:], expected)
    assert said[0] == f"splits by folder: {names[0]} is train, {names[2]} is test, {names[1]} is val" or all(
        f"{name} is " in said[0] for name in names
    )
    assert "left out 1 in spare" in said[1]


def test_unclear_splits_are_refused(tmp_path):
    source, out = tmp_path / "in", tmp_path / "a.h5"
    save(source / "val" / "0.png", noise(8, 8))
    save(source / "cats" / "0.png", noise(8, 8))
    refused(source, out, "has val, and 1 other images", "cats")
    save(source / "train" / "0.png", noise(8, 8))
    save(source / "Validation" / "0.png", noise(8, 8))
    refused(source, out, "Validation and val, which both seem to be val")


def test_held_out_images_are_not_mixed_with_others(tmp_path):
    source, out = tmp_path / "in", tmp_path / "a.h5"
    for index, name in enumerate(("holdout", "pictures", "my_train")):
        save(source / name / "0.png", noise(8, 8, index))
    refused(source, out, "holdout seem to be held out", "rename holdout to val or test")
    (source / "holdout").rename(source / "cats")
    assert "if my_train is one, rename it to train" in convert(source, out, size=8)[0]
    (source / "cats").rename(source / "eval")
    (source / "my_train").rename(source / "train")
    said = convert(source, tmp_path / "b.h5", size=8)
    assert said == [
        "splits by folder: train is train",
        "left out 1 in eval, 1 in pictures: outside of the folders of the splits",
    ]


def test_maps_of_splits_are_no_images(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "in" / split / "0.png", noise(8, 8))
        save(tmp_path / "in" / f"{split}_masks" / "0.png", np.eye(2, dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    said = convert(tmp_path / "in", tmp_path / "a.h5", size=8, masks=tmp_path / "in")
    with DatasetFile(tmp_path / "a.h5") as file:
        for split in ("train", "test"):
            np.testing.assert_array_equal(file.images(split)[:], [noise(8, 8)])
            assert file.masks(split).shape[0] == 1
    assert said[0] == "splits by folder: test is test, train is train"


def test_droppings_are_passed_over_and_links_followed(tmp_path):
    source, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    save(elsewhere / "b.png", noise(8, 8, 1))
    save(source / "a.png", noise(8, 8, 0))
    (source / "linked").symlink_to(elsewhere)
    (source / "again").symlink_to(source)  # a loop
    for name in ("._a.png", ".DS_Store", "__MACOSX/a.png", ".ipynb_checkpoints/a.png"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"no picture")
    convert(source, tmp_path / "a.h5", size=8, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], [noise(8, 8, 0), noise(8, 8, 1)])


def label_map(seed=0, size=8, objects=3):
    return np.random.default_rng(seed).integers(0, 1 + objects, (size, size)).astype(np.uint8)


@pytest.mark.parametrize("place", ["masks/{}.png", "Depth/{}.png", "seg_instance/{}.png", "images/{}_mask.png"])
def test_maps_beside_images_are_no_images(tmp_path, place):
    for index in range(4):
        save(tmp_path / "in" / "images" / f"{index}.png", noise(8, 8, index))
        save(tmp_path / "in" / place.format(index), label_map(index))
    said = convert(tmp_path / "in", tmp_path / "a.h5", size=8, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], [noise(8, 8, index) for index in range(4)])
    assert "left out 4 in" in said[0]
    assert "--masks" in said[0]


def test_a_folder_of_maps_of_any_name_is_noticed(tmp_path):
    for index in range(4):
        save(tmp_path / "in" / "x" / f"{index}.png", noise(16, 16, index))
        save(tmp_path / "in" / "y" / f"{index}.png", label_map(index, 16))
    refused(tmp_path / "in", tmp_path / "a.h5", "same names", "--masks")
    refused(tmp_path / "in" / "none", tmp_path / "a.h5", "no file or folder")
    save(tmp_path / "only" / "depth" / "0.png", label_map())
    refused(tmp_path / "only", tmp_path / "a.h5", "only what seem to be maps", "1 in depth")
    (tmp_path / "cater").mkdir()
    (tmp_path / "cater" / "CATER_new_000000.avi").touch()
    refused(tmp_path / "cater", tmp_path / "a.h5", "videos", "CATER")


def test_a_dark_folder_is_named(tmp_path):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", noise(8, 8, index) // 128)
    said = convert(tmp_path / "in", tmp_path / "a.h5", size=8, val=0, test=0)
    assert "no value above 1 of 255" in said[-1]
