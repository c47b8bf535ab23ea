"""The content of a dataset file, read from end to end."""

import h5py
import numpy as np
import pytest

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line
from support.noise import noise_scenes, write_noise


@pytest.fixture
def written(tmp_path):
    return write_noise(tmp_path / "scenes.h5")


def test_check_passes_a_sound_file_and_reports_how_far_it_is(written):
    told = []
    check_dataset(written, lambda *news: told.append(news))
    assert told == [
        *[(f"train/{name}", 47, 47) for name in ("imgs", "masks", "factors")],
        *[(f"test/{name}", 5, 5) for name in ("imgs", "masks", "factors")],
    ]


def test_check_finds_a_single_flipped_bit(written):
    with h5py.File(written) as file:
        array = file["train/imgs"]
        assert array.chunks[0] == 16
        block = array.id.get_chunk_info(1)  # images 16 to 31
    content = bytearray(written.read_bytes())
    content[block.byte_offset + 1000] ^= 4
    written.write_bytes(content)
    with pytest.raises(UserError) as caught:
        check_dataset(written)
    one_line(caught, str(written), "train/imgs", "item 16")
    with DatasetFile(written) as file, pytest.raises(UserError) as caught:
        file.content_hash()
    one_line(caught, str(written), "train/imgs", "data check")


@pytest.mark.parametrize(
    ("source", "value", "place"),
    [
        ("generated", 0, (31, 0, 2, 2, 0)),  # a pixel in no entity
        ("generated", 255, (31, slice(None), 2, 2, 0)),  # a pixel in every entity
        ("published", 7, (31, 1, 2, 2, 0)),  # neither inside nor outside
    ],
)
def test_check_names_the_first_bad_mask(tmp_path, source, value, place):
    path, scenes = tmp_path / "a.h5", noise_scenes(40)
    scenes.masks[31, :, 2, 2] = np.array([255, 0, 0], dtype=np.uint8)[:, None]
    scenes.masks[place] = value
    write_dataset(path, {"val": [scenes]}, {"source": source})
    with pytest.raises(UserError) as caught:
        check_dataset(path)
    one_line(caught, "val/masks", "item 31")


def test_check_names_the_first_bad_factors(tmp_path):
    path, scenes = tmp_path / "a.h5", noise_scenes(40)
    scenes.factors[20:] = np.nan
    write_dataset(path, {"train": [scenes]}, {})
    with pytest.raises(UserError) as caught:
        check_dataset(path)
    one_line(caught, "train/factors", "item 20")
