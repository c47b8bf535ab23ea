import numpy as np
import pytest

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.look import look_at
from pyro_sri.data.masks import one_hot_masks
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError

SIZE, NUM = 32, 40


def scenes(background_varies=False, alike=False):
    """Two squares on a plain background: images, and which pixel is what."""
    rng = np.random.default_rng(0)
    images, entities = np.empty((NUM, SIZE, SIZE, 3), np.uint8), np.zeros((NUM, SIZE, SIZE), np.uint8)
    for index in range(NUM):
        images[index] = rng.integers(0, 256) if background_varies else 20
        for number, colour in ((1, (240, 20, 20)), (2, (240, 20, 20) if alike else (20, 240, 20))):
            row, column = rng.integers(0, 20), 2 + 15 * (number - 1)
            entities[index, row : row + 10, column : column + 10] = number
            images[index][entities[index] == number] = colour
    return images, entities


def write(path, images, masks=None, **attributes):
    write_dataset(path, {"train": [SceneArrays(images, masks)]}, attributes)
    return path


def test_a_look_at_flat_images_by_hand(tmp_path):
    images, entities = scenes()
    look = look_at(write(tmp_path / "a.h5", images, one_hot_masks(entities, 4)))
    assert (look.image_size, look.num_images, look.colours, look.regions) == (SIZE, NUM, 3, 3)
    assert (look.entities, look.num_backgrounds, look.alike, look.dark) == (3, 1, 0, None)
    assert look.background_share == pytest.approx(1 - 200 / 1024)
    assert look.variance == pytest.approx((images / 255).var(0).mean())


def test_what_is_in_no_mask_is_background_too(tmp_path):
    images, entities = scenes(alike=True)
    masks = one_hot_masks(entities, 3)[:, 1:]
    look = look_at(write(tmp_path / "a.h5", images, masks, background_entities=[]))
    assert (look.entities, look.num_backgrounds, look.alike) == (3, 1, 1)


def test_brightness_of_a_plain_image_counts_for_nothing(tmp_path):
    images, _ = scenes(background_varies=True)
    look = look_at(write(tmp_path / "a.h5", images))
    assert look.variance == pytest.approx((images / 255).var((1, 2)).mean())
    assert look.variance < 0.6 * (images / 255).var(0).mean()
    assert (look.entities, look.background_share, look.alike) == (None, None, None)


def test_noise_is_not_flat(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    assert look_at(write(tmp_path / "a.h5", images)).colours > 100


def test_nothing_to_train_on(tmp_path):
    write_dataset(tmp_path / "a.h5", {"test": [SceneArrays(scenes()[0])]}, {})
    with pytest.raises(UserError, match="no split train"):
        look_at(tmp_path / "a.h5")
