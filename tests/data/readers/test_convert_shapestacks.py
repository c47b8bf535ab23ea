"""A folder like ShapeStacks, written with Pillow."""

import shutil

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.system.errors import UserError

SCENARIOS = {"train": ["ccs-hard-h=3", "ccs-hard-h=2"], "eval": ["blocks-easy-h=2"], "test": ["ccs-easy-h=6"]}
VALUES = [20, 51, 85, 102, 200, 255]


def picture(scenario, camera):
    rng = np.random.default_rng([camera, *scenario.encode()])
    return rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)


def blocks(scenario):
    """The number of each pixel's block: rows of blocks, one above the other."""
    entities = np.zeros((224, 224), dtype=np.uint8)
    for block in range(int(scenario[-1])):
        entities[30 * block + 20 : 30 * block + 50, 80:150] = block + 1
    return entities


def save_map(path, entities, mode="L"):
    values = Image.fromarray(np.array([0, *VALUES], dtype=np.uint8)[entities])
    values.convert(mode).save(path, format="png")


@pytest.fixture
def towers(tmp_path):
    root = tmp_path / "towers"
    modes = iter(["L", "RGB", "RGBA", "L"])
    for split, scenarios in SCENARIOS.items():
        for scenario in scenarios:
            recordings, iseg = root / "recordings" / scenario, root / "iseg" / scenario
            recordings.mkdir(parents=True)
            iseg.mkdir(parents=True)
            (recordings / "log.txt").write_text("cam_1")
            mode = next(modes)
            for camera in (1, 2, 12):
                name = f"w=2-f=3-l=1-c=original-cam_{camera}-mono-0"
                Image.fromarray(picture(scenario, camera)).save(recordings / f"rgb-{name}.png")
                save_map(iseg / f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map", blocks(scenario), mode)
        folder = root / "splits" / "default"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("\n".join(scenarios) + "\n")
    return root


def refused(source, out, *words, **options):
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not out.exists()


def test_pictures_and_masks_of_every_camera(tmp_path, towers):
    told = []
    convert(towers, tmp_path / "a.h5", progress=lambda *news: told.append(news))
    check_dataset(tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        for split, name in (("train", "train"), ("val", "eval"), ("test", "test")):
            shots = [(scenario, camera) for scenario in SCENARIOS[name] for camera in (1, 2, 12)]
            assert file.num_images(split) == len(shots)
            for index, (scenario, camera) in enumerate(shots):
                window = Image.fromarray(picture(scenario, camera)[14:210, 14:210])
                small = np.asarray(window.resize((64, 64), Image.Resampling.BILINEAR))
                np.testing.assert_array_equal(file.images(split)[index], small)
                # Nearest: pixel i of 64 has its middle in pixel floor((i + 1/2) 196 / 64) of 196.
                places = 14 + ((2 * np.arange(64) + 1) * 196) // 128
                entities = blocks(scenario)[np.ix_(places, places)]
                expected = (entities == np.arange(7)[:, None, None]) * 255
                np.testing.assert_array_equal(file.masks(split)[index, ..., 0], expected)
        assert file.attributes == {
            "source": "shapestacks",
            "dataset": "shapestacks",
            "split_name": "default",
            "files": [f"splits/default/{name}.txt" for name in ("train", "eval", "test")],
            "crop": [14, 210, 14, 210],
            "size": 64,
            "max_objects": 6,
        }
    assert ("scenarios of train", 2, 2) in told


def test_a_corner_pixel_lands_where_it_should(tmp_path, towers):
    image = np.zeros((224, 224, 3), dtype=np.uint8)
    image[:14], image[:, :14], image[210:], image[:, 210:] = 255, 255, 255, 255  # all that is cut off
    image[14, 209] = (0, 0, 200)
    name = "rgb-w=2-f=3-l=1-c=original-cam_1-mono-0.png"
    Image.fromarray(image).save(towers / "recordings" / SCENARIOS["eval"][0] / name)
    convert(towers, tmp_path / "a.h5", size=196, cameras=[1], train=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        found = file.images("val")[0]
        assert found[0, 195].tolist() == [0, 0, 200]
        assert found.sum() == 200


def test_cameras_and_counts(tmp_path, towers):
    convert(towers, tmp_path / "a.h5", cameras=[12, 1], train=3, val=0, size=32, max_objects=8)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("train", "test")
        assert (file.num_images("train"), file.num_images("test")) == (3, 2)
        assert (file.image_size, file.num_entities("train")) == (32, 9)
        assert file.attributes["cameras"] == [12, 1]
        first = Image.fromarray(picture(SCENARIOS["train"][0], 12)[14:210, 14:210])
        small = np.asarray(first.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(file.images("train")[0], small)


def test_lists_with_paths_suffixes_and_blank_lines(tmp_path, towers):
    convert(towers, tmp_path / "a.h5")
    (towers / "splits" / "default" / "train.txt").write_text(
        "\n recordings/ccs-hard-h=3/ \r\n\nsomewhere/ccs-hard-h=2.txt\n\n"
    )
    convert(towers, tmp_path / "b.h5")
    with DatasetFile(tmp_path / "a.h5") as a, DatasetFile(tmp_path / "b.h5") as b:
        assert a.content_hash() == b.content_hash()


def test_pictures_by_other_names(tmp_path, towers):
    for file in (towers / "recordings").glob("*/rgb-*"):
        file.rename(file.with_name(file.name.removeprefix("rgb-")))
    convert(towers, tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.num_images("train") == 6


def test_without_any_maps_there_are_no_masks(tmp_path, towers):
    shutil.rmtree(towers / "iseg")
    convert(towers, tmp_path / "a.h5", test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("train", "val")
        assert file.masks("train") is None
        assert file.num_images("train") == 6


def test_a_missing_map_is_named(tmp_path, towers):
    scenario = towers / "iseg" / SCENARIOS["train"][1]
    name = "iseg-w=0-f=0-l=0-c=original-cam_2-mono-0.map"
    (scenario / name).unlink()
    refused(towers, tmp_path / "a.h5", str(scenario), "no map for camera 2")
    (scenario / name.replace("cam_2", "cam_1").replace("mono-0", "mono-1")).touch()
    refused(towers, tmp_path / "a.h5", str(scenario), "2 maps for camera 1")


def test_damaged_pictures_and_maps(tmp_path, towers):
    out = tmp_path / "a.h5"
    bad = next((towers / "iseg" / SCENARIOS["test"][0]).glob("*cam_1-*"))
    refused(towers, out, str(bad), "6 blocks", "--max-objects 6", max_objects=5)
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    refused(towers, out, str(bad), "not a valid image")
    Image.fromarray(picture("", 0)).save(bad, format="png")
    refused(towers, out, str(bad), "coloured")
    Image.fromarray(blocks("h=2")[:200]).save(bad, format="png")
    refused(towers, out, str(bad), "224 x 200 pixels")
    bad.write_bytes(content)
    bad = next((towers / "recordings" / SCENARIOS["train"][0]).glob("rgb*"))
    bad.write_bytes(bad.read_bytes()[:500])
    refused(towers, out, str(bad), "not a valid image")


def test_folders_that_are_not_whole(tmp_path, towers):
    out = tmp_path / "a.h5"
    splits = towers / "splits"
    refused(towers, out, str(splits), "no 'other'; it has default", split_name="other")
    refused(towers, out, "no picture of camera 3", cameras=[1, 3])
    (splits / "default" / "train.txt").write_text("unknown\n")
    refused(towers, out, "recordings/unknown", "no picture")
    (splits / "default" / "train.txt").write_text("\n")
    refused(towers, out, "no scenes in", "train.txt")
    (splits / "default" / "train.txt").write_bytes(b"\xff\xfe")
    refused(towers, out, "train.txt", "cannot be read")
    (splits / "default" / "train.txt").unlink()
    refused(towers, out, "no split train, only val, test", train=3)
    (splits / "default_bgs").mkdir()
    refused(towers, out, "default, default_bgs", "--split-name")
    refused(towers, out, "default_bgs has none of train.txt", split_name="default_bgs")
    convert(towers, out, split_name="default")
    shutil.rmtree(splits)
    refused(towers, tmp_path / "b.h5", str(towers), "splits/SPLIT_NAME/train.txt, eval.txt, test.txt")
    splits.mkdir()
    refused(towers, tmp_path / "b.h5", "is empty")
