"""Multi-MNIST, from idx files written with struct."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.multi_mnist import Digits, draw_scene
from pyro_sri.system.errors import UserError

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}


def some_digits(num, seed):
    """Strokes: crosses of random grey on black, with labels."""
    rng = np.random.default_rng(seed)
    images = np.zeros((num, 28, 28), dtype=np.uint8)
    for image in images:
        row, column = rng.integers(6, 20, 2)
        image[row : row + 3, 4:24] = rng.integers(200, 256)
        image[4:24, column : column + 3] = rng.integers(200, 256)
    return images, rng.integers(0, 10, num, dtype=np.uint8)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (images, labels), (test_images, test_labels) = some_digits(20, 0), some_digits(5, 1)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels.idx1-ubyte").write_bytes(idx(labels))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(test_images))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(test_labels)))
    return folder


def scene_by_hand(images, labels, seed, split, index, max_objects):
    """The published procedure once more: whole canvases, summed; masks from the pictures alone."""
    rng = np.random.default_rng([seed, SPLIT_NUMBERS[split], index])
    num = rng.integers(max_objects + 1)
    while True:
        canvases, rows = [], []
        for _ in range(num):
            which = rng.integers(len(images))
            side = int(28 / rng.normal(1.3, 0.1))
            small = np.asarray(Image.fromarray(images[which]).resize((side, side), Image.Resampling.BICUBIC))
            top, left = rng.integers(0, 50 - side, 2)
            canvases.append(np.pad(small.astype(int), ((top, 50 - side - top), (left, 50 - side - left))))
            rows.append([1, labels[which], (left + side / 2) / 50, (top + side / 2) / 50, side / 50])
        total = np.sum(canvases, axis=0, initial=0) if num else np.zeros((50, 50), int)
        if total.max() <= 255:
            break
    masks = np.zeros((1 + max_objects, 50, 50, 1), dtype=np.uint8)
    for entity, canvas in enumerate(canvases, 1):
        masks[entity, canvas > 127] = 255
    masks[0] = 255 - masks[1:].sum(0)
    factors = np.zeros((1 + max_objects, 5), dtype=np.float32)
    factors[: 1 + num] = [[1, 0, 0, 0, 0], *rows]
    return np.repeat(total[..., None], 3, axis=2), masks, factors


def test_every_scene_is_as_published(tmp_path, mnist):
    told = []
    convert(mnist, tmp_path / "a.h5", train=40, val=8, test=9, seed=3, progress=lambda *news: told.append(news))
    check_dataset(tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        for split, count, digits in (
            ("train", 40, some_digits(20, 0)),
            ("val", 8, some_digits(20, 0)),
            ("test", 9, some_digits(5, 1)),
        ):
            arrays = file.images(split)[:], file.masks(split)[:], file.factors(split)[:]
            assert [len(array) for array in arrays] == [count] * 3
            for index in range(count):
                for array, expected in zip(arrays, scene_by_hand(*digits, 3, split, index, 2), strict=True):
                    np.testing.assert_array_equal(array[index], expected)
        assert file.attributes == {
            "source": "multi_mnist",
            "dataset": "multi_mnist",
            "files": [
                "train-images-idx3-ubyte.gz",
                "train-labels.idx1-ubyte",
                "t10k-images-idx3-ubyte",
                "t10k-labels-idx1-ubyte.gz",
            ],
            "seed": 3,
            "canvas": 50,
            "size": 50,
            "max_objects": 2,
            "factor_names": ["visible", "digit", "x", "y", "size"],
        }
    assert told[-1] == ("test", 9, 9)


def test_the_seed_decides(tmp_path, mnist):
    hashes = []
    for name, options in (("a", {}), ("b", {"seed": 0}), ("c", {"seed": 1})):
        convert(mnist, tmp_path / name, train=5, val=0, test=0, **options)
        with DatasetFile(tmp_path / name) as file:
            hashes.append(file.content_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def test_three_digits_at_another_size(tmp_path, mnist):
    convert(mnist, tmp_path / "a.h5", train=0, val=0, test=30, max_objects=3, size=64)
    check_dataset(tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        assert (file.splits, file.image_size, file.num_entities("test")) == (("test",), 64, 4)
        assert (file.masks("test")[:].sum(1, dtype=int) == 255).all()


def test_the_number_of_digits_is_uniform():
    digits = Digits(*some_digits(20, 0))
    counts = [int(draw_scene(np.random.default_rng([0, index]), digits, 2)[2][1:, 0].sum()) for index in range(600)]
    assert all(150 < counts.count(number) < 250 for number in range(3))


def refused(source, out, *words, **options):
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not out.exists()


def test_half_of_mnist(tmp_path, mnist):
    out = tmp_path / "a.h5"
    (mnist / "train-images-idx3-ubyte.gz").unlink()
    refused(mnist, out, "no split train, only test", train=5)
    convert(mnist, out, test=4)
    with DatasetFile(out) as file:
        assert file.splits == ("test",)
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(mnist, tmp_path / "b.h5", str(mnist), "t10k-labels-idx1-ubyte", test=4)
    refused(mnist, tmp_path / "b.h5", "20", "do not fit on the canvas", max_objects=20)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(np.zeros((3, 27, 28), np.uint8)), "(3, 27, 28)"),
        (idx(np.zeros((5, 28, 28), np.uint8)), "(20,)"),
        (idx(np.zeros((20, 784), np.uint8)), "not an idx file"),
        (idx(some_digits(20, 0)[0])[:-1], "truncated"),
        (idx(some_digits(20, 0)[0])[:10], "truncated"),
        (idx(some_digits(20, 0)[0]) + b"x", "longer than it says"),
        (b"", "not an idx file"),
        (gzip.compress(idx(some_digits(20, 0)[0]))[:-9], "truncated"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "claims to have"),
        (b"<html>", "not an idx file"),
    ],
)
def test_damaged_files(tmp_path, mnist, content, words):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(content)
    refused(mnist, tmp_path / "a.h5", "train-images-idx3-ubyte.gz", words, train=2, val=2, test=2)
