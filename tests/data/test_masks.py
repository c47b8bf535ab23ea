"""One reading of masks for converter, check, preview and evaluation."""

import h5py
import numpy as np
import pytest

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import evaluation_batches
from pyro_sri.data.masks import MaskTally, mask_fault, one_hot_masks, visible_masks
from pyro_sri.data.preview import BACKGROUND_COLOURS, OBJECT_COLOURS, colour_masks, info
from pyro_sri.data.readers import convert
from pyro_sri.metrics import adjusted_rand_index, entity_labels
from pyro_sri.system.errors import UserError

SIZE = 8


def background_and_object():
    """A background mask of the whole image, and an object of 4 x 4 pixels on it."""
    masks = np.zeros((4, 2, SIZE, SIZE, 1), np.uint8)
    masks[:, 0] = 255
    masks[:, 1, 2:6, 2:6] = 255
    return masks


def write(path, masks, split="train", **attributes):
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file[f"{split}/imgs"] = rng.integers(0, 256, (len(masks), *masks.shape[2:4], 3), dtype=np.uint8)
        file[f"{split}/masks"] = masks
        file.attrs.update(attributes)
    return path


def read(path, split="train"):
    with DatasetFile(path) as file:
        return file.visible_masks(split, slice(None))


def test_the_higher_entity_is_in_front_everywhere(tmp_path):
    path = write(tmp_path / "a.h5", background_and_object())
    said = convert(path, tmp_path / "b.h5")
    expected = np.zeros((4, SIZE, SIZE), int)
    expected[:, 2:6, 2:6] = 1
    for file in (path, tmp_path / "b.h5"):
        np.testing.assert_array_equal(entity_labels(read(file)), expected)
        batch = next(evaluation_batches(file, "train", 4))
        np.testing.assert_array_equal(entity_labels(batch["masks"].numpy()), expected)
        assert info(file)["splits"]["train"]["objects_per_scene"] == {1: 4}
        assert info(file)["splits"]["train"]["background_share"] == pytest.approx(1 - 16 / 64)
        with DatasetFile(file) as opened:
            colours = colour_masks(opened.masks("train")[:], opened)
        np.testing.assert_array_equal(colours[0, 0, 0], BACKGROUND_COLOURS[0])
        np.testing.assert_array_equal(colours[0, 3, 3], OBJECT_COLOURS[0])
    assert said == ["the masks of train overlap in 4 of 4 scenes: the higher entity is in front"]
    assert check_dataset(path) == ["train/masks overlap in 4 of 4 scenes: the higher entity is in front"]
    assert check_dataset(tmp_path / "b.h5") == []


def test_a_background_in_front_of_everything_is_refused(tmp_path):
    path = write(tmp_path / "a.h5", background_and_object()[:, ::-1])
    for attempt in (lambda: convert(path, tmp_path / "b.h5"), lambda: check_dataset(path)):
        with pytest.raises(UserError, match="a background must come first"):
            attempt()
    assert not (tmp_path / "b.h5").exists()


def test_an_entity_that_others_hide_is_counted(tmp_path):
    masks = background_and_object()
    masks = np.concatenate([masks, masks[:, 1:]], axis=1)
    masks[1:, 2] = 0
    assert check_dataset(write(tmp_path / "a.h5", masks))[1] == (
        "train/masks have an entity that others hide completely in 1 of 4 scenes"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_index_maps_are_read_as_such(tmp_path, dtype):
    maps = np.zeros((4, 1, SIZE, SIZE, 1), dtype)
    maps[:, 0, 1:3], maps[:, 0, 5:7] = 1, 2
    maps[3, 0, 5:7] = 0  # a scene whose map looks like a mask
    path = write(tmp_path / "a.h5", maps)
    said = convert(path, tmp_path / "b.h5")
    np.testing.assert_array_equal(entity_labels(read(tmp_path / "b.h5")), maps[:, 0, ..., 0])
    assert "index maps" in said[0]
    if dtype == np.uint8:
        for attempt in (lambda: check_dataset(path), lambda: next(evaluation_batches(path, "train", 4))):
            with pytest.raises(UserError, match=r"an index map.*data convert"):
                attempt()


def lone(background, *objects, dtype=np.uint8):
    """Index maps of bands with these values, two rows for each or as many as given: (value, rows)."""
    maps, row = np.full((4, 1, SIZE, SIZE, 1), background, dtype), 1
    for value, rows in objects:
        maps[:, :, row : row + rows], row = value, row + rows
    return maps


@pytest.mark.parametrize(
    ("maps", "expected", "words"),
    [
        (lone(255, (1, 2), (2, 2), (3, 2)), [0, 1, 1, 2, 2, 3, 3, 0], "value 255 is entity 0"),
        (lone(0, (1, 2), (200, 3)), [0, 1, 1, 2, 2, 2, 0, 0], "value 0 is entity 0"),
        (lone(0, (1, 2), (2, 5)), [0, 1, 1, 2, 2, 2, 2, 2], "and so on up to 2"),
        (lone(0, (1, 2), (255, 1), (2, 2)), [0, 1, 1, -1, 2, 2, 0, 0], "value 255 is no entity"),
        (lone(0, (100, 2), (300, 2), dtype=np.int32), [0, 1, 1, 2, 2, 0, 0, 0], "in ascending order up to 2"),
        (lone(7, (0, 2), (3, 2)), [0, 1, 1, 2, 2, 0, 0, 0], None),
    ],
)
def test_index_maps_of_any_values(tmp_path, maps, expected, words):
    """A background that is not 0, a large number, an object on most of the image, a region of no entity."""
    if words is None:  # 0 is in all maps, and so an entity of its own: it stays the background
        expected, words = [7, 0, 0, 3, 3, 7, 7, 7], "value 0 is entity 0"
    path = write(tmp_path / "a.h5", maps)
    if maps.dtype == np.uint8:
        with pytest.raises(UserError, match=r"like an index map; convert it"):
            check_dataset(path)
    said = convert(path, tmp_path / "b.h5")
    assert words in said[0]
    assert not any("are all empty" in sentence for sentence in said)
    assert entity_labels(read(tmp_path / "b.h5"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (lone(0, (0.5, 2), (3, 2), dtype=np.float32), "not index maps: values must be whole numbers"),
        (lone(0.1, (0.5, 2), (0.9, 2), dtype=np.float32), "not index maps"),
        (np.arange(4 * SIZE * SIZE, dtype=np.int32).reshape(4, 1, SIZE, SIZE, 1) // 2, "more than the 64"),
    ],
)
def test_a_lone_mask_that_is_neither_is_refused(tmp_path, maps, words):
    with pytest.raises(UserError, match=words):
        convert(write(tmp_path / "a.h5", maps), tmp_path / "b.h5")


def discs(values, side=24, big=8):
    """Discs with these values on 0, in maps that are drawn large and then made smaller by averaging."""
    places = np.arange(side * big) - side * big / 2
    large = np.zeros((side * big, side * big))
    for place, value in enumerate(values):
        x = (place - (len(values) - 1) / 2) * side * big / len(values)
        large[(places[:, None] ** 2 + (places - x) ** 2) < (side * big / len(values) / 2.4) ** 2] = value
    return np.rint(large.reshape(side, big, side, big).mean((1, 3))).astype(np.uint8)


def test_a_soft_lone_mask_is_no_index_map():
    assert mask_fault(discs([255])[None, None, ..., None]) is None
    for values in ([80, 160, 240], [1, 2, 3], [10, 255]):
        assert "like an index map" in mask_fault(discs(values)[None, None, ..., None])


def test_smoothed_index_maps_are_refused(tmp_path):
    maps = np.tile(discs([30, 60, 90, 120])[None, None, ..., None], (4, 1, 1, 1, 1))
    with pytest.raises(UserError, match=r"index maps have soft edges: \d\d %"):
        convert(write(tmp_path / "a.h5", maps), tmp_path / "b.h5")


def test_advice_to_convert_can_be_followed(tmp_path):
    """Also for a file that says its source, which `convert` refuses unless something is to change."""
    path = write(tmp_path / "a.h5", lone(0, (1, 2), (2, 2)), source="mine")
    with pytest.raises(UserError, match=f"--size {SIZE}"):
        check_dataset(path)
    convert(path, tmp_path / "b.h5", size=SIZE)
    assert check_dataset(tmp_path / "b.h5") == []


def test_soft_masks_go_to_the_entity_with_half_or_the_largest_share():
    shares = np.array([[1, 0.5, 0.4, 0.1, 0.3], [0, 0.5, 0.35, 0.1, 0.6], [0, 0, 0.25, 0.1, 0.1]])
    masks = shares[None, :, None, :, None]
    for coded in (masks, np.rint(masks * 255 + 0.01).astype(np.uint8)):
        assert entity_labels(coded).tolist() == [[[0, 1, 0, -1, 1]]]
    layered = np.array([[255, 255, 255], [0, 200, 90]], np.uint8)  # an object with soft edges on a whole background
    assert entity_labels(layered[None, :, None, :, None]).tolist() == [[[0, 1, 0]]]


def test_entities_may_have_codes_of_their_own():
    masks = np.array([[1, 1, 0], [0, 7, 0], [0, 0, 3]], np.uint8)[None, :, None, :, None]
    assert entity_labels(masks).tolist() == [[[0, 1, 2]]]
    assert mask_fault(masks) is None


def test_inverted_masks_are_refused(tmp_path):
    entities = np.random.default_rng(0).integers(0, 3, (4, 1, SIZE, SIZE, 1))
    masks = np.where(entities == np.arange(4)[:, None, None, None], 0, 255).astype(np.uint8)
    path = write(tmp_path / "a.h5", masks)
    for attempt in (
        lambda: check_dataset(path),
        lambda: convert(path, tmp_path / "b.h5"),
        lambda: next(evaluation_batches(path, "train", 4)),
    ):
        with pytest.raises(UserError, match="are inverted"):
            attempt()


def test_objects_that_fill_the_image_before_a_whole_background_are_not_inverted(tmp_path):
    masks = np.zeros((4, 3, SIZE, SIZE, 1), np.uint8)
    masks[:, 0], masks[:, 1, : SIZE // 2], masks[:, 2, SIZE // 2 :] = 255, 255, 255
    path = write(tmp_path / "a.h5", masks)
    check_dataset(path)  # refuses nothing
    assert next(evaluation_batches(path, "train", 4))["masks"][:, :2, 0].sum() == 255 * 4 * SIZE


def test_two_inverted_masks_show_no_background(tmp_path):
    masks = 255 - background_and_object()
    assert "show no pixel of the background, entity 0" in check_dataset(write(tmp_path / "a.h5", masks))[-1]


def test_values_that_mean_nothing_are_refused():
    masks = np.zeros((1, 3, 4, 4, 1), np.uint8)
    masks[0, 0, 0], masks[0, 0, 1] = 2, 5
    assert "neither 0 and 255 nor shares" in mask_fault(masks)


def test_no_mask_need_be_background(tmp_path):
    masks = background_and_object()[:, 1:]
    masks = np.concatenate([masks, np.roll(masks, 4, axis=3)], axis=1)
    path = write(tmp_path / "a.h5", masks)
    assert "to no entity, though entity 0 counts as the background" in check_dataset(path)[-1]
    convert(path, tmp_path / "b.h5", background_entities=[])
    for file in (tmp_path / "b.h5", write(tmp_path / "c.h5", masks, background_entities=[])):
        assert check_dataset(file) in ([], ["train/masks overlap in 4 of 4 scenes: the higher entity is in front"])
        with DatasetFile(file) as opened:
            assert opened.background_entities == ()
        assert info(file)["splits"]["train"]["objects_per_scene"] == {2: 4}
    perfect = adjusted_rand_index(read(tmp_path / "b.h5"), masks, foreground_only=True, background_entities=[])
    assert perfect.min() > 0.3


@pytest.mark.parametrize("place", ["train", "train/masks"])
def test_a_background_said_on_a_split_or_its_masks_counts_everywhere(tmp_path, place):
    masks = visible_masks(background_and_object())
    path = write(tmp_path / "a.h5", np.concatenate([masks[:, 1:], masks[:, :1]], axis=1))
    with h5py.File(path, "a") as file:
        file[place].attrs["background_entities"] = [1]
        file["train/factors"] = np.zeros((4, 2, 3))
        file["train/factors"].attrs["factor_names"] = ["x", "y", "z"]
    convert(path, tmp_path / "b.h5")
    for file in (path, tmp_path / "b.h5"):
        assert check_dataset(file) == []
        told = info(file)
        assert (told["background_entities"], told["factor_names"]) == ([1], ["x", "y", "z"])
        assert told["splits"]["train"]["background_share"] == pytest.approx(1 - 16 / 64)
    with h5py.File(path, "a") as file:
        file.attrs["background_entities"] = [0]
    for attempt in (lambda: check_dataset(path), lambda: convert(path, tmp_path / "c.h5")):
        with pytest.raises(UserError, match=rf"background_entities is \[0\] on the file and \[1\] on {place}; make"):
            attempt()


def test_names_that_do_not_fit_the_factors_are_named(tmp_path):
    path = write(tmp_path / "a.h5", visible_masks(background_and_object()), factor_names=["x", "y"])
    with h5py.File(path, "a") as file:
        file["train/factors"] = np.zeros((4, 2, 3))
    said = convert(path, tmp_path / "b.h5")
    assert "factor_names do not fit the columns of the factors of train, and were left out" in said[0]


def test_a_background_that_is_not_first_is_named(tmp_path):
    masks = visible_masks(background_and_object())
    path = write(tmp_path / "a.h5", np.concatenate([masks[:, 1:], masks[:, :1]], axis=1))
    assert "along most of the image's edge in 4 of 4 scenes" in check_dataset(path)[0]
    masks[:, 0], masks[:, 1] = 255, 0
    assert check_dataset(write(tmp_path / "b.h5", masks)) == ["train/masks show no object: all pixels are background"]


@pytest.mark.parametrize(
    "attributes",
    [{"background_entities": [0, 2]}, {"background_entities": []}, {"background_entities": 1}, {"note": "mine"}],
)
def test_what_a_file_says_survives(tmp_path, attributes):
    entities = np.random.default_rng(0).integers(0, 3, (4, 1, SIZE, SIZE, 1))
    masks = entities == np.arange(3)[:, None, None, None]
    path = write(tmp_path / "a.h5", masks, factor_names=["x", "y"], **attributes)
    with h5py.File(path, "a") as file:
        file["train/factors"] = np.zeros((4, 3, 2))
    convert(path, tmp_path / "b.h5")
    with DatasetFile(tmp_path / "b.h5") as file:
        assert file.attributes["factor_names"] == ["x", "y"]
        for name, value in attributes.items():
            kept = file.attributes[name]
            assert (list(np.atleast_1d(kept)) if name == "background_entities" else kept) == (
                list(np.atleast_1d(value)) if name == "background_entities" else value
            )


def test_backgrounds_come_first_where_objects_are_cut(tmp_path):
    entities = np.tile(np.arange(4).repeat(2)[:, None], (1, SIZE))[None, None, ..., None]
    masks = np.where(entities == np.arange(4)[:, None, None, None], 255, 0).astype(np.uint8)
    masks[:, 1] = 0
    path = write(tmp_path / "a.h5", masks, background_entities=[3])
    convert(path, tmp_path / "b.h5", max_objects=2)
    with DatasetFile(tmp_path / "b.h5") as file:
        assert file.background_entities == (0,)
        np.testing.assert_array_equal(file.masks("train")[:], masks[:, [3, 0, 2]])


def test_a_file_of_ours_is_resized_and_keeps_what_it_says(tmp_path, tetrominoes):
    convert(tetrominoes, tmp_path / "b.h5", size=64)
    with DatasetFile(tetrominoes) as old, DatasetFile(tmp_path / "b.h5") as new:
        assert (new.image_size, new.splits, new.generated) == (64, old.splits, True)
        kept = {name: value for name, value in old.attributes.items() if name != "size"}
        assert kept.items() <= new.attributes.items()
        assert new.attributes["resized_from"] == 32
        np.testing.assert_array_equal(new.masks("test")[:, :, ::2, ::2], old.masks("test")[:])
        np.testing.assert_array_equal(new.factors("test")[:], old.factors("test")[:])
    assert check_dataset(tmp_path / "b.h5") == []


def test_other_pictures_are_cut_to_squares(tmp_path):
    masks = np.zeros((2, 2, 8, 12, 1), np.uint8)
    masks[:, 0, :, :11], masks[:, 1, :, 11:] = 255, 255
    said = convert(write(tmp_path / "a.h5", masks), tmp_path / "b.h5")
    assert said[0] == "images were cut to rows 0 to 7 and columns 2 to 9 of 8 x 12 pixels"
    assert said[1] == "in 2 of 2 scenes an entity was lost by cutting and resizing"


@pytest.mark.parametrize(
    ("factors", "names", "words"),
    [
        (np.ones((4, 5)), None, "shape (4, 5), not a row for each entity, [n,2,F]"),
        (np.ones((4, 3, 5)), None, "shape (4, 3, 5)"),
        (np.ones((4, 2, 5, 1)), None, "shape (4, 2, 5, 1)"),
        (np.ones(4), None, "shape (4,)"),
        (np.ones((4, 2, 5)), ["x", "y"], "5 columns, and factor_names has 2 names"),
        (np.ones((4, 2, 5), np.complex64), None, "complex64, not numbers"),
        (np.ones((4, 2, 5), "S3"), None, "not numbers"),
        (np.zeros(4, [("x", "f4")]), None, "shape (4,), not a row for each entity, [n,2]"),
        (np.zeros((4, 2), [("x", [("y", "f4")])]), None, "neither numbers nor texts"),
    ],
)
def test_check_names_factors_that_evaluation_leaves_out(tmp_path, factors, names, words):
    path = write(tmp_path / "a.h5", background_and_object(), **({} if names is None else {"factor_names": names}))
    with h5py.File(path, "a") as file:
        file["train/factors"] = factors
    note = check_dataset(path)[-1]
    assert words in note
    assert "leaves out DCI" in note


@pytest.mark.parametrize(("value", "words"), [(0, "all black"), (1, "multiplied by 255"), (20, "no value is above 20")])
def test_check_names_dark_images(tmp_path, value, words):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["train/imgs"] = np.full((2, SIZE, SIZE, 3), value, np.uint8)
    assert words in check_dataset(path)[0]


def test_groups_in_another_spelling(tmp_path):
    path = write(tmp_path / "a.h5", background_and_object(), "Training")
    with h5py.File(path, "a") as file:
        file["validation/imgs"] = file["Training/imgs"][:]
    with DatasetFile(path) as file:
        assert file.splits == ("train", "val")
    with h5py.File(path, "a") as file:
        file["dev/imgs"] = file["Training/imgs"][:]
    with pytest.raises(UserError, match="both seem to be val"):
        DatasetFile(path)


def test_a_missing_filter_is_named(tmp_path):
    path, images = tmp_path / "a.h5", np.ones((2, SIZE, SIZE, 3), np.uint8)
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(images.shape)
        properties.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(images.shape)
        array = h5py.h5d.create(file.create_group("train").id, b"imgs", h5py.h5t.STD_U8LE, space, properties)
        array.write_direct_chunk((0, 0, 0, 0), images.tobytes(), filter_mask=0)
    for attempt in (
        lambda: check_dataset(path),
        lambda: convert(path, tmp_path / "b.h5"),
        lambda: next(evaluation_batches(path, "train", 2)),
    ):
        with pytest.raises(UserError, match=r"HDF5 filter lz4 \(32004\), which is not installed"):
            attempt()


def test_what_is_seen_is_a_partition():
    masks = np.random.default_rng(0).integers(0, 2, (3, 4, SIZE, SIZE, 1)).astype(np.uint8)
    seen = visible_masks(masks)
    assert set(np.unique(seen.sum(1, dtype=int))) <= {0, 255}
    tally = MaskTally((0,), declared=True)
    tally.update(seen)
    assert tally.overlapping == 0


def test_one_hot_masks_by_hand():
    masks = one_hot_masks(np.array([[[0, 2], [1, 0]]], dtype=np.uint8), 4)
    np.testing.assert_array_equal(
        masks[0, ..., 0], [[[255, 0], [0, 255]], [[0, 0], [255, 0]], [[0, 255], [0, 0]], [[0, 0], [0, 0]]]
    )
