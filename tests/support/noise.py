"""A dataset file of noise."""

from pathlib import Path

import numpy as np

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.writing import write_dataset

SIZE, ENTITIES = 8, 3


def noise_scenes(num: int, seed: int = 0) -> SceneArrays:
    """Scenes whose pixels have random colours and belong to random entities."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    entities = rng.integers(0, ENTITIES, (num, 1, SIZE, SIZE, 1))
    masks = np.where(entities == np.arange(ENTITIES).reshape(-1, 1, 1, 1), 255, 0).astype(np.uint8)
    return SceneArrays(images, masks, rng.random((num, ENTITIES, 2), dtype=np.float32))


def write_noise(path: Path) -> Path:
    """A file that calls itself generated, with 47 scenes to train and 5 to test."""
    pieces = [noise_scenes(40, 1), noise_scenes(7, 2)]
    write_dataset(
        path,
        {"train": iter(pieces), "test": [noise_scenes(5, 3)]},
        {"source": "generated", "generator": "noise", "seed": 4, "scale": 0.5, "factor_names": ["x", "y"]},
    )
    return path
