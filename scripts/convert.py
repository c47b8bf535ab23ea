"""The command `pyro-sri data convert`: from a published data set to a dataset file."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pyro_sri.data import readers
from pyro_sri.data.format import DatasetFile
from pyro_sri.scripts.cli import progress_bar


def convert(
    source: Annotated[Positional[Path], arg(metavar="SOURCE")],
    /,
    out: Path,
    format: Literal["auto", "tfrecords", "emorl", "shapestacks", "mnist", "folder"] = "auto",
    size: int | None = None,
    max_objects: int | None = None,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int | None = None,
    split_name: str | None = None,
    cameras: tuple[int, ...] | None = None,
) -> None:
    """Convert a published data set to one HDF5 file.

    Formats:

    tfrecords: a file of the Multi-Object Datasets (Tetrominoes, Multi-dSprites, Objects Room, CLEVR with masks)

    emorl: an HDF5 file of EfficientMORL

    shapestacks: the ShapeStacks folder, with recordings, iseg and splits

    mnist: the folder with MNIST's idx files, from which multi-MNIST is made

    folder: a folder of images

    A source without splits (tfrecords, or a folder without train, val and test) is split in order: the first 1000
    scenes become val, the next 1000 test, and the rest train. CLEVR is cropped, resized to 96 pixels, and reduced to
    scenes with at most 6 objects, as published.

    For example:

    pyro-sri data convert clevr_with_masks_train.tfrecords --out clevr6.h5

    pyro-sri data convert objects_room_test_six_objects.tfrecords --out six.h5 --train 0 --val 0 --test 900

    pyro-sri data convert shapestacks --out towers.h5 --split-name default --cameras 1 2 3

    pyro-sri data convert mnist --out digits.h5 --max-objects 3 --seed 1

    An existing file is never overwritten.

    Args:
        source: The file or folder to convert.
        out: The file to make, for example clevr6.h5.
        format: Format of the source; auto detects it.
        size: Side of the images in pixels (if not given: as published).
        max_objects: Leave out scenes with more objects than this (if not given: no limit, except CLEVR and ShapeStacks
            6, mnist 2 digits).
        train: Largest number of scenes in train; 0 leaves the split out (if not given: all of them, mnist 60000).
        val: Scenes in val; 0 leaves the split out (if not given: 1000, or all if the source has splits).
        test: Scenes in test; 0 leaves the split out (if not given: 1000, or all if the source has splits, mnist 10000).
        seed: mnist only: seed of the scenes (if not given: 0).
        split_name: shapestacks only: which folder in splits to use (needed if there are several).
        cameras: shapestacks only: numbers of the cameras to keep (if not given: all).

    Raises:
        UserError: For a source that is damaged or of another layout, or a file that exists or cannot be written.
    """
    with progress_bar() as report:
        readers.convert(
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
            progress=report,
        )
    with DatasetFile(out) as file:
        counts = ", ".join(f"{file.num_images(split)} {split}" for split in file.splits)
        print(f"converted {source} to {out}: {file.attributes['source']}, {counts} images of {file.image_size} pixels")
