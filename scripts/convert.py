"""The command `pyro-sri data convert`: from a published data set to a dataset file."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pyro_sri.data import readers
from pyro_sri.data.format import DatasetFile
from pyro_sri.nn import IMAGE_SIZES
from pyro_sri.scripts.cli import note, progress_bar, say


def convert(
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    /,
    out: Path,
    format: Literal["auto", "tfrecords", "emorl", "shapestacks", "mnist", "clevrtex", "folder"] = "auto",
    masks: Path | None = None,
    size: int | None = None,
    max_objects: int | None = None,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int | None = None,
    split_name: str | None = None,
    cameras: tuple[int, ...] | None = None,
    background_entities: tuple[int, ...] | None = None,
) -> None:
    """Convert a published data set, or a folder of your own pictures, to one HDF5 file.

    Formats:

    tfrecords: a file of the Multi-Object Datasets (Tetrominoes, Multi-dSprites, Objects Room, CLEVR with masks), or of
    PNG-coded images and masks

    emorl: an HDF5 file of EfficientMORL, any of that layout, or one of this library to be resized

    shapestacks: the ShapeStacks folder, with recordings, iseg and splits

    mnist: the folder with MNIST's idx files, from which multi-MNIST is made

    clevrtex: the folder of a variant of ClevrTex

    folder: a folder of images, with their masks in another: a picture for each image (an index map, or a colour for
    each object), or one for each object. Where masks overlap, the higher number is in front.

    A TFRecord file is split by order: the first 1000 scenes are val, the next 1000 test, the rest train. A folder of
    images is split by the folders in it that are named for splits (train, Validation, images_test, ..); without them it
    is shuffled, and a tenth is val, a tenth test. CLEVR is cropped, made 96 pixels wide, and cut down to scenes with at
    most 6 objects, as published. What was done is said.

    For example:

    pyro-sri data convert clevr_with_masks_train.tfrecords --out clevr6.h5

    pyro-sri data convert objects_room_test_six_objects.tfrecords --out six.h5 --train 0 --val 0 --test 900

    pyro-sri data convert shapestacks --out towers.h5 --split-name default --cameras 1 2 3

    pyro-sri data convert mnist --out digits.h5 --max-objects 3 --seed 1

    pyro-sri data convert pictures --masks masks --out mine.h5 --size 64

    pyro-sri data convert mine.h5 --out small.h5 --size 32

    An existing file is never overwritten.

    Args:
        source: The file or folder to convert.
        out: The file to make, for example clevr6.h5.
        format: What the source is; auto looks.
        masks: folder: the folder of the masks.
        size: Side of the images to make, in pixels; left out: as published, folder 64. SRI takes 32, 64, 96 or 128.
        max_objects: Leave out scenes with more objects; left out: all scenes, CLEVR 6, ShapeStacks 6, mnist 2 digits.
        train: Scenes in train, at most; 0 leaves it out; left out: all that there are, mnist 60000.
        val: Scenes in val; 0 leaves it out; left out: 1000, folder a tenth, or all where the source has splits.
        test: Scenes in test; 0 leaves it out; left out: likewise, mnist 10000.
        seed: mnist: seed of the scenes; folder: seed of the shuffling; left out: 0.
        split_name: shapestacks: which of the folders in splits; left out: the only one.
        cameras: shapestacks: numbers of the cameras to keep; left out: all.
        background_entities: emorl, folder: numbers of the entities that are background, none at all if all are objects;
            left out: what the source says, or 0.

    Raises:
        UserError: For a source that is damaged or of another layout, or a file that exists or cannot be written.
    """
    with progress_bar() as report:
        sentences = readers.convert(
            source,
            out,
            None if format == "auto" else format,
            size=size,
            max_objects=max_objects,
            train=train,
            val=val,
            test=test,
            seed=seed,
            split_name=split_name,
            cameras=cameras,
            masks=masks,
            background_entities=background_entities,
            progress=report,
        )
    with DatasetFile(out) as file:
        counts = ", ".join(f"{file.num_images(split)} {split}" for split in file.splits)
        size = file.image_size
        say(f"converted {source} to {out}: {file.attributes['source']}, {counts} images of {size} pixels")
    if size not in IMAGE_SIZES:
        sizes = ", ".join(map(str, IMAGE_SIZES))
        sentences.append(f"SRI and GENESIS-v2 train on images of {sizes} pixels, not {size}; see --size")
    for sentence in sentences:
        note(f"note: {sentence}")
