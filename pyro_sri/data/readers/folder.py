"""A plain folder of images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pyro_sri.data.format import SPLITS, Report
from pyro_sri.data.readers.geometry import centre, resize_image
from pyro_sri.data.readers.pictures import SUFFIXES, files_below, read_rgb
from pyro_sri.data.readers.reader import Conversion, Options, reported
from pyro_sri.data.readers.splits import divide, wanted_splits
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

SIZE = 64


def read_folder(path: Path, options: Options, progress: Report) -> Conversion:
    """Read a folder of images, sorted by name; folders in it are searched too.

    Its folders train, val and test are the splits if it has one of them. Each image is cut to the square in its middle,
    resized, and made RGB.

    Raises:
        UserError: If there are no images, or, while scenes are taken, for the first that cannot be read.
    """
    size = options.size or SIZE
    attributes = {"source": "folder", "dataset": path.resolve().name, "files": [path.resolve().name], "size": size}
    available = [split for split in SPLITS if (path / split).is_dir()]
    if available:
        images = {split: _images(path / split) for split in wanted_splits(available, options, path)}
        scenes = {
            split: _scenes(names[: options.counts[split]], split, size, progress) for split, names in images.items()
        }
    else:
        scenes = divide(_scenes(_images(path), "images", size, progress), options, f"images of {path}")
    return Conversion({split: stack(some) for split, some in scenes.items()}, attributes)


def _scenes(images: Sequence[str], what: str, size: int, progress: Report) -> Iterator[Scene]:
    for name in reported(images, what, len(images), progress):
        image = read_rgb(Path(name))
        height, width, _ = image.shape
        yield Scene(resize_image(image[centre(height, width, min(height, width))], size))


def _images(folder: Path) -> list[str]:
    images = [name for name in files_below(folder) if Path(name).suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
    return images
