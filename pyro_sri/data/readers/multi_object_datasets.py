"""The Multi-Object Datasets: Tetrominoes, Multi-dSprites, Objects Room, CLEVR with masks.

Each is a TFRecord file of Examples with the features `image` and `mask` (one-byte strings, in C order; masks are 255
inside, 0 outside) and factors: numbers or one-byte strings, the same number for each entity.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.checking import finite_rows
from pyro_sri.data.format import Report
from pyro_sri.data.readers.entities import entity_map, keep_entities, kept_entities
from pyro_sri.data.readers.example import feature_values, first_string, parse_example
from pyro_sri.data.readers.geometry import (
    ALL,
    CLEVR_SHAPE,
    CLEVR_SIZE,
    CLEVR_WINDOW,
    Window,
    resize_image,
    resize_map,
    window_attribute,
)
from pyro_sri.data.readers.picture_records import holds_pictures, read_picture_records
from pyro_sri.data.readers.reader import Conversion, Options
from pyro_sri.data.readers.splits import divide
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.data.readers.tfrecord import read_records
from pyro_sri.system.errors import UserError

# In the order of their columns in the new file.
FACTORS = (
    "visibility",
    "shape",
    "color",
    "material",
    "size",
    "scale",
    "x",
    "y",
    "z",
    "orientation",
    "rotation",
    "pixel_coords",
)
COMPONENTS: Mapping[str, Sequence[str]] = {
    "color": ("red", "green", "blue"),
    "pixel_coords": ("pixel_x", "pixel_y", "pixel_depth"),
}

Features = Mapping[str, memoryview]


@dataclass(frozen=True)
class Layout:
    """How a data set stores its scenes, and how they are converted.

    Attributes:
        dataset: Its name.
        image: Height, width and channels of its images.
        num_entities: Most entities in a scene, O, background included.
        entities_third: Whether masks are [H, W, O, 1]; otherwise they are [O, H, W, 1].
        num_background: How many of the first entities are background.
        window: The part of a picture to keep.
        size: The side of the images to make, unless the user says otherwise.
        max_objects: Most objects of a scene to keep, likewise; None keeps all scenes.
    """

    dataset: str
    image: tuple[int, int, int]
    num_entities: int
    entities_third: bool = False
    num_background: int = 1
    window: Window = ALL
    size: int = 64
    max_objects: int | None = None

    @property
    def num_values(self) -> tuple[int, int]:
        """How many values `image` and `mask` have. They differ between all layouts."""
        height, width, channels = self.image
        return height * width * channels, height * width * self.num_entities


CATER_BYTES = 33 * 64 * 64 * 3  # in one string
SPRITES = (64, 64, 3)
LAYOUTS = (
    Layout("tetrominoes", (35, 35, 3), 4, size=35),
    Layout("multi_dsprites_binarized", (64, 64, 1), 4, entities_third=True),
    Layout("multi_dsprites_colored_on_grayscale", SPRITES, 6, entities_third=True),
    Layout("multi_dsprites_colored_on_colored", SPRITES, 5, entities_third=True),
    Layout("objects_room", SPRITES, 7, num_background=4),  # train
    Layout("objects_room", SPRITES, 10, num_background=4),  # six objects, identical colours
    Layout("objects_room", SPRITES, 4, num_background=4),  # empty room
    Layout("clevr_with_masks", (*CLEVR_SHAPE, 3), 11, window=CLEVR_WINDOW, size=CLEVR_SIZE, max_objects=6),
)


def read_multi_object_dataset(path: Path, options: Options, progress: Report) -> Conversion:
    """Read one of the Multi-Object Datasets, or records of PNG-coded pictures; the first record tells which.

    Scenes with more than `max_objects` objects are left out. Objects are counted by the factor `visibility` or, without
    it, by the masks.

    Raises:
        UserError: If the file is damaged or none of these data sets.
    """
    records = read_records(path, progress)
    first = next(records)
    try:
        example = parse_example(first)
        if holds_pictures(example):
            return read_picture_records(path, chain([first], records), options)
        layout, factors = _understood(example)
    except ValueError as error:
        raise UserError(f"{path} is not one of the Multi-Object Datasets: in record 0, {error}") from None
    size = options.size or layout.size
    max_objects = options.max_objects or layout.max_objects

    def scenes() -> Iterator[Scene]:
        for index, record in enumerate(chain([first], records)):
            try:
                scene = _scene(parse_example(record), layout, factors, size, max_objects)
            except ValueError as error:
                raise UserError(f"{path}: record {index} is not like the first: {error}") from None
            if scene is not None:
                yield scene

    attributes: dict[str, object] = {
        "source": "multi_object_datasets",
        "dataset": layout.dataset,
        "files": [path.name],
        "size": size,
    }
    what, num_entities = f"scenes of {path.name}", layout.num_entities
    if max_objects is not None:
        what += f" with at most {max_objects} objects"
        num_entities = min(num_entities, layout.num_background + max_objects)
        attributes["max_objects"] = max_objects
    if layout.window != ALL:
        attributes["crop"] = window_attribute(layout.window)
    if layout.num_background > 1:
        attributes["background_entities"] = list(range(layout.num_background))
    if factors:
        attributes["factor_names"] = [column for name, number in factors.items() for column in _columns(name, number)]
    splits = divide(scenes(), options, what)
    return Conversion({split: stack(some, num_entities) for split, some in splits.items()}, attributes)


def _understood(features: Features) -> tuple[Layout, dict[str, int]]:
    """The layout of a record, and its factors with the number of components of each."""
    if len(first_string(features.get("image", memoryview(b"")))) == CATER_BYTES:
        raise ValueError("it is CATER with masks, videos of 33 frames, which are not read")
    counts = {name: len(feature_values(features[name])) for name in ("image", "mask", *FACTORS) if name in features}
    for layout in LAYOUTS:
        if layout.num_values == (counts.get("image"), counts.get("mask")):
            return layout, {
                name: counts[name] // layout.num_entities
                for name in FACTORS
                if counts.get(name) and counts[name] % layout.num_entities == 0
            }
    found = ", ".join(f"{name} has {count} values" for name, count in counts.items())
    raise ValueError(f"{found or 'there is no image'}, which fits none of them")


def _columns(name: str, number: int) -> Sequence[str]:
    components = COMPONENTS.get(name, ())
    if number == 1:
        return (name,)
    return components if number == len(components) else [f"{name}_{component}" for component in range(number)]


def _scene(
    features: Features, layout: Layout, factors: Mapping[str, int], size: int, max_objects: int | None
) -> Scene | None:
    """The scene of a record, or None if it has too many objects."""
    table = {name: _values(features, name, (layout.num_entities, number)) for name, number in factors.items()}
    if not all(finite_rows(values).all() for values in table.values()):
        raise ValueError("it has factors that are not finite")
    presence = table["visibility"] > 0 if "visibility" in table else _masks(features, layout)
    visible = np.asarray(presence.reshape(layout.num_entities, -1).any(1))
    kept = kept_entities(visible, range(layout.num_background), max_objects)
    if kept is None:
        return None
    image = _values(features, "image", layout.image)[layout.window]
    entities = entity_map(_masks(features, layout)[:, *layout.window])
    return Scene(
        resize_image(np.repeat(image, 3 // image.shape[2], axis=2), size),
        resize_map(keep_entities(entities, kept), size),
        np.concatenate(list(table.values()), axis=1, dtype=np.float32)[kept] if table else None,
    )


def _masks(features: Features, layout: Layout) -> NDArray[np.uint8]:
    """The masks, [O, H, W]."""
    height, width, _ = layout.image
    if layout.entities_third:
        return _values(features, "mask", (height, width, layout.num_entities)).transpose(2, 0, 1)
    return _values(features, "mask", (layout.num_entities, height, width))


def _values(features: Features, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if name not in features:
        raise ValueError(f"it has no feature {name}")
    values = feature_values(features[name])
    if len(values) != math.prod(shape):
        raise ValueError(f"its feature {name} has {len(values)} values instead of {math.prod(shape)}")
    if name in ("image", "mask") and values.dtype != np.uint8:
        raise ValueError(f"its feature {name} does not consist of one-byte strings")
    return values.reshape(shape)
