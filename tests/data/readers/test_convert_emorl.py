"""EfficientMORL's files, written with h5py."""

import h5py
import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.system.errors import UserError

SIZE, ENTITIES = 12, 4


def some_arrays(num, seed, height=SIZE, width=SIZE, num_objects=ENTITIES - 1):
    """Images, masks 0 and 1 of the background and so many objects, and their entity maps."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, height, width, 3), dtype=np.uint8)
    entities = rng.integers(0, 1 + num_objects, (num, height, width))
    masks = (entities[:, None] == np.arange(ENTITIES)[:, None, None]).astype(np.uint8)[..., None]
    return images, masks, entities


def write(path, arrays, **attributes):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    return path


def refused(source, out, *words, **options):
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(source), *words):
        assert word in message
    assert not out.exists()


@pytest.mark.parametrize(
    "code",
    [
        lambda masks: masks,
        lambda masks: masks * np.uint8(255),
        lambda masks: masks.astype(bool),
        lambda masks: masks.astype(np.float32),
        lambda masks: masks * np.float64(0.8) + (1 - masks) * 0.05,  # fractions
        lambda masks: masks.astype(np.int64),
    ],
)
def test_any_coding_of_masks(tmp_path, code):
    images, masks, _ = some_arrays(5, 0)
    source = write(tmp_path / "a.h5", {"train/imgs": images, "train/masks": code(masks)})
    convert(source, tmp_path / "b.h5")
    check_dataset(tmp_path / "b.h5")
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], images)
        np.testing.assert_array_equal(file.masks("train")[:], masks * 255)
        assert file.attributes == {"source": "emorl", "files": ["a.h5"], "size": SIZE}


@pytest.mark.parametrize("change", [lambda masks: masks.astype(bool), lambda masks: masks, lambda masks: masks[:, 1:2]])
def test_files_of_others_that_say_their_source_are_converted(tmp_path, change):
    images, masks, _ = some_arrays(5, 0)
    source = write(tmp_path / "a.h5", {"train/imgs": images, "train/masks": change(masks)}, source="a simulator")
    convert(source, tmp_path / "b.h5")
    with DatasetFile(tmp_path / "b.h5") as file:
        assert file.attributes["source"] == "a simulator"
    refused(tmp_path / "b.h5", tmp_path / "c.h5", "already a dataset file", "--size")


def test_groups_that_are_no_splits_are_left_out_and_named(tmp_path):
    images, _, _ = some_arrays(2, 0)
    source = write(tmp_path / "a.h5", {f"{name}/imgs": images for name in ("images_train", "holdout")})
    assert convert(source, tmp_path / "b.h5")[0] == "not used: holdout, not named for train, val or test"
    source = write(tmp_path / "c.h5", {"eval/imgs": images})
    refused(source, tmp_path / "d.h5", "eval has images: rename a group")


def test_splits_as_they_are(tmp_path):
    train, test = some_arrays(7, 0), some_arrays(4, 1)
    factors = np.random.default_rng(0).normal(size=(4, ENTITIES, 3))
    source = write(
        tmp_path / "a.h5",
        {"train/imgs": train[0], "test/imgs": test[0], "test/masks": test[1], "test/factors": factors},
    )
    with h5py.File(source, "a") as file:
        file["test/factors"].attrs["factor_names"] = ["x", "y", "z"]
    told = []
    convert(source, tmp_path / "b.h5", train=5, progress=lambda *news: told.append(news))
    with DatasetFile(tmp_path / "b.h5") as file:
        assert file.splits == ("train", "test")
        np.testing.assert_array_equal(file.images("train")[:], train[0][:5])
        np.testing.assert_array_equal(file.images("test")[:], test[0])
        assert file.masks("train") is None
        np.testing.assert_array_equal(file.masks("test")[:], test[1] * 255)
        np.testing.assert_array_equal(file.factors("test")[:], factors)
        assert file.attributes["factor_names"] == ["x", "y", "z"]
    assert told == [("train", 7, 7), ("test", 4, 4)]
    convert(source, tmp_path / "c.h5", train=0)
    with DatasetFile(tmp_path / "c.h5") as file:
        assert file.splits == ("test",)


def test_clevr_is_cropped(tmp_path):
    images, masks, entities = some_arrays(1, 0, 240, 320)
    source = write(tmp_path / "a.h5", {"val/imgs": images, "val/masks": masks})
    convert(source, tmp_path / "b.h5")
    with DatasetFile(tmp_path / "b.h5") as file:
        small = Image.fromarray(images[0, 29:221, 64:256]).resize((96, 96), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(file.images("val")[0], np.asarray(small))
        expected = entities[0, 29:221, 64:256][1::2, 1::2] == np.arange(ENTITIES)[:, None, None]
        np.testing.assert_array_equal(file.masks("val")[0, ..., 0] == 255, expected)
        assert (file.attributes["crop"], file.attributes["size"]) == ([29, 221, 64, 256], 96)
    convert(source, tmp_path / "c.h5", size=192)
    with DatasetFile(tmp_path / "c.h5") as file:
        np.testing.assert_array_equal(file.images("val")[0], images[0, 29:221, 64:256])


def test_resizing_keeps_a_partition(tmp_path):
    images, masks, _ = some_arrays(2, 0)
    convert(write(tmp_path / "a.h5", {"train/imgs": images, "train/masks": masks}), tmp_path / "b.h5", size=17)
    check_dataset(tmp_path / "b.h5")
    with DatasetFile(tmp_path / "b.h5") as file:
        assert file.image_size == 17
        assert (file.masks("train")[:].sum(1, dtype=int) == 255).all()


def test_objects_are_counted_by_masks(tmp_path):
    few, many = some_arrays(2, 0, num_objects=2), some_arrays(3, 1, num_objects=3)
    few[1][0, [1, 3]] = few[1][0, [3, 1]]  # the first scene has objects 2 and 3
    arrays = [np.concatenate(pair) for pair in zip(many, few, strict=True)]
    factors = np.arange(5 * ENTITIES, dtype=np.float32).reshape(5, ENTITIES, 1)
    source = write(tmp_path / "a.h5", {"train/imgs": arrays[0], "train/masks": arrays[1], "train/factors": factors})
    convert(source, tmp_path / "b.h5", max_objects=2)
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], few[0])
        np.testing.assert_array_equal(file.masks("train")[0], few[1][0, [0, 2, 3]] * 255)
        np.testing.assert_array_equal(file.masks("train")[1], few[1][1, [0, 1, 2]] * 255)
        np.testing.assert_array_equal(file.factors("train")[:, :, 0], [[12, 14, 15], [16, 17, 18]])
        assert file.attributes["max_objects"] == 2
    refused(source, tmp_path / "c.h5", "no scenes in train", "at most 1 objects", max_objects=1)


@pytest.mark.parametrize("with_masks", [True, False])
def test_objects_are_counted_by_a_structured_visibility(tmp_path, with_masks):
    images, masks, _ = some_arrays(3, 0)
    factors = np.zeros((3, ENTITIES), dtype=[("visibility", "f4"), ("shape", "i8")])
    factors["visibility"] = [[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]]
    factors["shape"] = np.arange(12).reshape(3, 4)
    arrays = {"train/imgs": images, "train/factors": factors} | ({"train/masks": masks} if with_masks else {})
    convert(write(tmp_path / "a.h5", arrays), tmp_path / "b.h5", max_objects=2)
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], images[1:])
        assert file.factors("train")["shape"].tolist() == [[4, 6, 5], [8, 9, 10]]
        assert file.attributes["factor_names"] == ["visibility", "shape"]
        if with_masks:
            np.testing.assert_array_equal(file.masks("train")[0], masks[1, [0, 2, 1]] * 255)


def test_factors_of_other_forms(tmp_path):
    images, masks, _ = some_arrays(2, 0)
    per_scene = np.array([(3, [1, 2]), (4, [3, 4])], dtype=[("light", "f8"), ("camera", "f4", 2)])
    source = write(tmp_path / "a.h5", {"train/imgs": images, "train/masks": masks, "train/factors": per_scene})
    convert(source, tmp_path / "b.h5", max_objects=3)
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file.factors("train")[:], per_scene)
    for names, expected in ((np.bytes_("light"), ["light"]), (["x", "visibility"], None)):  # one column, not two
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["train/imgs"], file["train/factors"] = images, np.ones((2, ENTITIES, 1))
            file["train/masks"] = masks
            file["train/factors"].attrs["factor_names"] = names
        convert(tmp_path / "f.h5", tmp_path / "g.h5", max_objects=3)
        with DatasetFile(tmp_path / "g.h5") as file:
            assert file.attributes.get("factor_names") == expected
        (tmp_path / "g.h5").unlink()
    text = np.array(["a", "b"], dtype=h5py.string_dtype())
    convert(write(tmp_path / "c.h5", {"train/imgs": images, "train/factors": text}), tmp_path / "d.h5")
    with DatasetFile(tmp_path / "d.h5") as file:
        assert file.factors("train") is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"scenes/imgs": np.zeros((2, 8, 8, 3), np.uint8)}, "train, val, test"),
        ({"train/images": np.zeros((2, 8, 8, 3), np.uint8)}, "no array imgs"),
        ({"train/imgs": np.zeros((2, 8, 8, 3), np.float32)}, "float32"),
        (dict.fromkeys(("val/imgs", "dev/imgs"), np.zeros((2, 8, 8, 3), np.uint8)), "both seem to be val"),
        ({"train/imgs": np.zeros((2, 8, 8, 3), np.uint8), "val/imgs": np.zeros((2, 9, 9, 3), np.uint8)}, "different"),
        ({"train/imgs": np.zeros((2, 8, 8, 3), np.uint8), "train/masks": np.zeros((2, 8, 8, 1))}, "[2,O,8,8,1]"),
        ({"train/imgs": np.zeros((2, 8, 8, 3), np.uint8), "train/masks": np.zeros((2, 256, 8, 8, 1))}, "256"),
        ({"train/imgs": np.zeros((2, 8, 8, 3), np.uint8), "train/factors": np.zeros((3, 1))}, "one row per image"),
        ({"train/imgs": np.zeros((0, 8, 8, 3), np.uint8)}, "no scenes in train"),
    ],
)
def test_another_layout_is_refused(tmp_path, arrays, words):
    refused(write(tmp_path / "a.h5", arrays), tmp_path / "b.h5", words)


def test_what_cannot_be_done(tmp_path):
    images, _, _ = some_arrays(2, 0)
    source = write(tmp_path / "a.h5", {"train/imgs": images})
    out = tmp_path / "b.h5"
    refused(source, out, "visibility to count objects by", max_objects=2)
    refused(source, out, "no split test, only train", test=3)
    refused(source, out, "only train", train=0)
    refused(source, out, "seed does not apply to emorl", seed=1)
    convert(source, out)
    with pytest.raises(UserError, match=r"with --data as it is"):
        convert(out, tmp_path / "c.h5")


def test_a_damaged_array_is_named(tmp_path):
    images, _, _ = some_arrays(3, 0)
    source = tmp_path / "a.h5"
    with h5py.File(source, "w") as file:
        array = file.create_dataset("train/imgs", data=images, chunks=(1, SIZE, SIZE, 3), compression="gzip")
        start = array.id.get_chunk_info(2).byte_offset
    content = bytearray(source.read_bytes())
    content[start + 50] ^= 4
    source.write_bytes(content)
    refused(source, tmp_path / "b.h5", "train/imgs, items 0 to 2 cannot be read")


def test_damaged_files_are_refused_or_read(tmp_path):
    images, masks, _ = some_arrays(3, 0)
    source = write(tmp_path / "a.h5", {"train/imgs": images, "train/masks": masks})
    content, out = source.read_bytes(), tmp_path / "b.h5"
    rng = np.random.default_rng(0)

    def attempt():
        try:
            convert(source, out, format="emorl")
        except UserError as error:
            assert not out.exists()
            return str(error)
        check_dataset(out)
        out.unlink()
        return ""

    for length in (0, 8, 100, 500, 1500, len(content) // 2, len(content) - 1):
        source.write_bytes(content[:length])
        message = attempt()
        assert "not an HDF5 file, is truncated" in message
        assert "\n" not in message
    for place in rng.integers(0, 2_500, 150):  # mostly the layout, which has no checksums in such files
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        source.write_bytes(damaged)
        assert "\n" not in attempt()
