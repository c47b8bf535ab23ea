"""Readers of the published data sets' own formats, and their conversion to dataset files.

A new format is one file with a function that reads it, and one entry in `READERS`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pyro_sri.data.format import Report
from pyro_sri.data.readers.emorl import is_hdf5_file, read_emorl
from pyro_sri.data.readers.folder import read_folder
from pyro_sri.data.readers.multi_mnist import is_mnist_folder, read_multi_mnist
from pyro_sri.data.readers.multi_object_datasets import read_multi_object_dataset
from pyro_sri.data.readers.reader import Options, Reader
from pyro_sri.data.readers.shapestacks import is_shapestacks_folder, read_shapestacks
from pyro_sri.data.readers.tfrecord import is_tfrecord_file
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError

Format = Literal["tfrecords", "emorl", "shapestacks", "mnist", "folder"]

# In the order in which a source is tried: every folder is a plain folder.
READERS: dict[Format, Reader] = {
    "emorl": Reader(is_hdf5_file, read_emorl, frozenset({"max_objects"})),
    "tfrecords": Reader(is_tfrecord_file, read_multi_object_dataset, frozenset({"max_objects"})),
    "shapestacks": Reader(is_shapestacks_folder, read_shapestacks, frozenset({"max_objects", "split_name", "cameras"})),
    "mnist": Reader(is_mnist_folder, read_multi_mnist, frozenset({"max_objects", "seed"})),
    "folder": Reader(Path.is_dir, read_folder),
}
ALWAYS = frozenset({"size", "train", "val", "test"})


def convert(
    source: Path | str,
    out: Path | str,
    format: Format | None = None,
    *,
    size: int | None = None,
    max_objects: int | None = None,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int | None = None,
    split_name: str | None = None,
    cameras: Sequence[int] | None = None,
    progress: Report | None = None,
) -> None:
    """Convert a published data set to a dataset file; memory stays bounded whatever the size of the source.

    What is left out (None) is as published for the format.

    Args:
        source: A TFRecord file of the Multi-Object Datasets, an HDF5 file of EfficientMORL, or the folder of
            ShapeStacks, of MNIST's idx files, or of images.
        out: The file to make; it is complete or not there at all.
        format: A key of READERS; None recognises it.
        size: Side of the images to make, in pixels, 8 to 1024.
        max_objects: Scenes with more objects are left out, and the masks have room for so many (ShapeStacks: more are
            an error; MNIST: the most digits of a scene).
        train: Scenes in train, at most (MNIST: exactly); 0 leaves the split out.
        val: Scenes in val, likewise; exactly where the source has no splits.
        test: Scenes in test, likewise.
        seed: MNIST: the same seed gives the same scenes.
        split_name: ShapeStacks: which of the folders in splits.
        cameras: ShapeStacks: the numbers of the cameras to keep; None keeps all.
        progress: Called as progress(what, done, in all) now and then.

    Raises:
        UserError: If the source is missing, damaged, or has another layout than its format, an option is out of range
            or does not apply to the format, or the file exists or cannot be written.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"there is no file or folder {source}; name the data set to convert")
    options = Options(size, max_objects, train, val, test, seed, split_name, cameras)
    format = _recognised(source) if format is None else format
    reader = READERS[format]
    for name in sorted(options.given - ALWAYS - reader.options):
        raise UserError(f"--{name.replace('_', '-')} does not apply to {format}, the format of {source}; leave it out")
    splits, attributes = reader.read(source, options, progress or (lambda what, done, total: None))
    write_dataset(out, splits, attributes)


def _recognised(source: Path) -> Format:
    for name, reader in READERS.items():
        if reader.recognises(source):
            return name
    raise UserError(f"{source} is not a TFRecord file, an HDF5 file or a folder; name its format with --format")
