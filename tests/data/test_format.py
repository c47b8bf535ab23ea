import hashlib

import h5py
import numpy as np
import pytest

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line
from support.noise import ENTITIES, SIZE, noise_scenes, write_noise


@pytest.fixture
def written(tmp_path):
    return write_noise(tmp_path / "scenes.h5")


def raw_file(path, **arrays):
    """A file with arrays named like train/imgs, written without our writer."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def images(num=2, size=SIZE, channels=3):
    return np.zeros((num, size, size, channels), dtype=np.uint8)


def test_what_is_written_is_read_back(written):
    first, second = noise_scenes(40, 1), noise_scenes(7, 2)
    with DatasetFile(written) as file:
        assert file.splits == ("train", "test")
        assert file.image_size == SIZE
        assert (file.num_images("train"), file.num_images("test")) == (47, 5)
        assert file.num_entities("train") == ENTITIES
        assert file.background_entities == (0,)
        assert file.generated
        assert file.attributes == {
            "source": "generated",
            "generator": "noise",
            "seed": 4,
            "scale": 0.5,
            "factor_names": ["x", "y"],
        }
        for array, expected in zip(
            (file.images, file.masks, file.factors), zip(first, second, strict=True), strict=True
        ):
            np.testing.assert_array_equal(array("train")[:], np.concatenate(expected))
            assert array("train").dtype == expected[0].dtype
        picked = file.read(file.images("train"), [45, 3, 3])
        np.testing.assert_array_equal(picked, [second.images[5], first.images[3], first.images[3]])
    assert [path.name for path in written.parent.iterdir()] == ["scenes.h5"]


def test_content_hash_follows_the_arrays_alone(written, tmp_path):
    other, changed = tmp_path / "other.h5", tmp_path / "changed.h5"
    scenes = noise_scenes(40, 1), noise_scenes(7, 2)
    test = noise_scenes(5, 3)
    joined = SceneArrays(*(np.concatenate(arrays) for arrays in zip(*scenes, strict=True)))
    write_dataset(other, {"train": [joined], "test": [test]}, {})
    test.images[4, 0, 0, 0] ^= 1
    write_dataset(changed, {"train": [joined], "test": [test]}, {})
    hashes = []
    for path in (written, other, changed):
        with DatasetFile(path) as file:
            hashes.append(file.content_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def test_content_hash_of_a_file_by_hand(tmp_path):
    path = raw_file(tmp_path / "a.h5", **{"train/imgs": images()})
    with DatasetFile(path) as file:
        assert (
            file.content_hash() == hashlib.sha256(b"train/imgs |u1 (2, 8, 8, 3)\n" + bytes(2 * 8 * 8 * 3)).hexdigest()
        )


def test_a_published_file_without_masks_factors_and_attributes(tmp_path):
    with DatasetFile(raw_file(tmp_path / "a.h5", **{"train/imgs": images(), "val/imgs": images(3)})) as file:
        assert file.splits == ("train", "val")
        assert file.masks("train") is None
        assert file.factors("val") is None
        assert file.num_entities("train") is None
        assert not file.generated
        assert file.background_entities == (0,)
    check_dataset(tmp_path / "a.h5")


def test_background_entities_come_from_the_file(tmp_path):
    path = raw_file(tmp_path / "a.h5", **{"train/imgs": images()})
    with h5py.File(path, "a") as file:
        file.attrs["background_entities"] = [0, 1, 2, 3]
        file.attrs["note"] = np.bytes_(b"fixed-length text")
    with DatasetFile(path) as file:
        assert file.background_entities == (0, 1, 2, 3)
        assert file.attributes["note"] == "fixed-length text"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"scenes/imgs": images()}, ["train, val, test"]),
        ({"train/images": images()}, ["train", "imgs"]),
        ({"train/imgs/deeper": images()}, ["train", "imgs"]),
        ({"train/imgs": images().astype(np.float32)}, ["train/imgs", "float32", "uint8"]),
        ({"train/imgs": images(channels=1)}, ["train/imgs", "(2, 8, 8, 1)"]),
        ({"train/imgs": images()[:, :4]}, ["train/imgs", "(2, 4, 8, 3)", "H == W"]),
        ({"train/imgs": images(num=0)}, ["train/imgs", "n >= 1"]),
        ({"train/imgs": images()[0]}, ["train/imgs"]),
        ({"train/imgs": images(), "test/imgs": images(size=4)}, ["different sizes"]),
        ({"train/imgs": images(), "train/masks": np.zeros((2, 3, 8, 8, 1), np.int64)}, ["train/masks", "int64"]),
        ({"train/imgs": images(), "train/masks": np.zeros((3, 3, 8, 8, 1), np.uint8)}, ["[2,O,8,8,1]"]),
        ({"train/imgs": images(), "train/masks": np.zeros((2, 3, 8, 8), np.uint8)}, ["[2,O,8,8,1]"]),
        ({"train/imgs": images(), "train/masks": np.zeros((2, 0, 8, 8, 1), np.uint8)}, ["[2,O,8,8,1]"]),
        ({"train/imgs": images(), "train/masks/deeper": images()}, ["train/masks", "not an array"]),
        ({"train/imgs": images(), "train/factors": np.zeros((3, 4, 5))}, ["train/factors", "one row per image"]),
    ],
)
def test_a_broken_layout_is_refused_in_one_line(tmp_path, arrays, words):
    path = raw_file(tmp_path / "a.h5", **arrays)
    with pytest.raises(UserError) as caught:
        DatasetFile(path)
    one_line(caught, str(path), *words)


def test_files_that_cannot_be_opened(tmp_path, written):
    text, cut, empty = tmp_path / "text.h5", tmp_path / "cut.h5", tmp_path / "empty.h5"
    text.write_text("not HDF5\n" * 1000)
    cut.write_bytes(written.read_bytes()[:-100])
    empty.touch()
    for path, word in (
        (tmp_path / "none.h5", "no file"),
        (tmp_path, "folder"),
        (text, "not an HDF5 file"),
        (cut, "truncated"),
        (empty, "not an HDF5 file"),
    ):
        with pytest.raises(UserError) as caught:
            DatasetFile(path)
        one_line(caught, str(path), word)


def test_a_split_that_is_not_there(written):
    with DatasetFile(written) as file:
        for ask in (file.images, file.masks, file.factors, file.num_images, file.num_entities):
            with pytest.raises(UserError) as caught:
                ask("val")
            one_line(caught, str(written), "'val'", "train, test")


def test_groups_that_are_no_splits_are_named(tmp_path):
    arrays = {f"{name}/imgs": images() for name in ("images_train", "holdout", "notes_about")}
    path = raw_file(tmp_path / "a.h5", **arrays, **{"other/numbers": np.zeros(3), "eval": np.zeros(3)})
    with h5py.File(path, "a") as file:
        file["linked"] = h5py.SoftLink("/holdout")
    with DatasetFile(path) as file:
        assert file.splits == ("train",)
        assert file.unused == ["holdout", "notes_about"]
    assert check_dataset(path)[0] == "not used: holdout, notes_about, not named for train, val or test"
    with pytest.raises(UserError) as caught:
        DatasetFile(raw_file(tmp_path / "b.h5", **{"eval/imgs": images()}))
    one_line(caught, "none of the groups train, val, test", "eval has images: rename a group")
