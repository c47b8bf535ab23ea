"""Readers of the published data sets' own formats, and their conversion to dataset files.

A new format needs one file with a function that reads it, and one entry in `READERS`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pyro_sri.data.checking import dark_images
from pyro_sri.data.format import Report, SceneArrays
from pyro_sri.data.readers.clevrtex import is_clevrtex_folder, read_clevrtex
from pyro_sri.data.readers.emorl import is_hdf5_file, read_emorl
from pyro_sri.data.readers.folder import read_folder
from pyro_sri.data.readers.multi_mnist import is_mnist_folder, read_multi_mnist
from pyro_sri.data.readers.multi_object_datasets import read_multi_object_dataset
from pyro_sri.data.readers.pictures import SUFFIXES
from pyro_sri.data.readers.reader import Options, Reader
from pyro_sri.data.readers.shapestacks import is_shapestacks_folder, read_shapestacks
from pyro_sri.data.readers.tfrecord import is_tfrecord_file
from pyro_sri.data.writing import refuse_existing, write_dataset
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home

Format = Literal["tfrecords", "emorl", "shapestacks", "mnist", "clevrtex", "folder"]

# In the order in which they are tried: any folder is a plain folder.
READERS: dict[Format, Reader] = {
    "emorl": Reader(is_hdf5_file, read_emorl, frozenset({"max_objects", "background_entities"})),
    "tfrecords": Reader(is_tfrecord_file, read_multi_object_dataset, frozenset({"max_objects"})),
    "shapestacks": Reader(is_shapestacks_folder, read_shapestacks, frozenset({"max_objects", "split_name", "cameras"})),
    "mnist": Reader(is_mnist_folder, read_multi_mnist, frozenset({"max_objects", "seed"})),
    "clevrtex": Reader(is_clevrtex_folder, read_clevrtex),
    "folder": Reader(Path.is_dir, read_folder, frozenset({"seed", "masks", "background_entities"})),
}
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"})
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
    masks: Path | str | None = None,
    background_entities: Sequence[int] | None = None,
    progress: Report | None = None,
) -> list[str]:
    """Convert a published data set to a dataset file, with bounded memory for sources of any size.

    Arguments that are None are as published for the format.

    Args:
        source: A TFRecord file of the Multi-Object Datasets, an HDF5 file of EfficientMORL or of this library, or the
            folder of ShapeStacks, of MNIST's idx files, of ClevrTex, or of images.
        out: The file to write, complete or not at all.
        format: A key of READERS; None detects it.
        size: Side of the images to make, in pixels, 8 to 1024.
        max_objects: Most objects in a scene. Scenes with more are left out (ShapeStacks: are an error; MNIST: are not
            made), and the masks have room for this many.
        train: Scenes in train, at most (MNIST: exactly); 0 leaves the split out.
        val: Scenes in val, likewise; exactly if the source has no splits.
        test: Scenes in test, likewise.
        seed: MNIST: the same seed gives the same scenes; images: the same split.
        split_name: ShapeStacks: a folder in splits.
        cameras: ShapeStacks: the numbers of the cameras to keep; None for all.
        masks: Images: the folder of their masks, with one picture for each image (an index map, or a colour for each
            object) or one for each object.
        background_entities: HDF5, images: the entities that are background, if the file does not say; empty if all are
            objects.
        progress: Called as progress(what, done, total) now and then.

    Returns:
        What was done and what is unusual, one sentence each.

    Raises:
        UserError: If the source is missing, damaged, or not in its format, an option is out of range or does not apply
            to the format, or the file exists or cannot be written.
    """
    source = from_home(source)
    if not source.exists():
        raise UserError(f"there is no file or folder {source}; name the data set to convert")
    masks = None if masks is None else from_home(masks)
    options = Options(size, max_objects, train, val, test, seed, split_name, cameras, masks, background_entities)
    format = _recognised(source) if format is None else format
    reader = READERS[format]
    for name in sorted(options.given - ALWAYS - reader.options):
        raise UserError(f"--{name.replace('_', '-')} does not apply to {format}, the format of {source}; leave it out")
    refuse_existing(from_home(out))  # before the source is read
    conversion = reader.read(source, options, progress or (lambda what, done, total: None))
    brightest: dict[str, int] = {}
    splits = {split: _watched(pieces, split, brightest) for split, pieces in conversion.splits.items()}
    write_dataset(out, splits, conversion.attributes)
    dark = [f"the images of {split} {fault}" for split, value in brightest.items() if (fault := dark_images(value))]
    return [*conversion.account(), *dark]


def _watched(pieces: Iterable[SceneArrays], split: str, brightest: dict[str, int]) -> Iterator[SceneArrays]:
    """The pieces, unchanged; records the brightest value of the split."""
    for scenes in pieces:
        brightest[split] = max(brightest.get(split, 0), int(scenes.images.max(initial=0)))
        yield scenes


def _recognised(source: Path) -> Format:
    for name, reader in READERS.items():
        if reader.recognises(source):
            return name
    advice = "name its format with --format"
    if source.suffix.lower() in SUFFIXES:
        advice = "to convert pictures, name their folder"
    elif source.suffix.lower() in ARCHIVES:
        advice = "unpack it first"
    raise UserError(f"{source} is not a TFRecord file, an HDF5 file or a folder; {advice}")
