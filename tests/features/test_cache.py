"""Features kept under the content of the images: found again, never for other images, never damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.writing import write_dataset
from pyro_sri.features import cache_folder, cached_features, images_hash
from pyro_sri.system.errors import UserError

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


class Extractor:
    """Only its name and size count here."""

    def __init__(self, name: str = "one", size: int = 3):
        self.name = name
        self.size = size

    def __call__(self, images: Tensor) -> Tensor:
        raise AssertionError("not called by the cache")


class Computing:
    """Computes features, and counts how often."""

    def __init__(self, features: np.ndarray = FEATURES):
        self.features = features
        self.times = 0

    def __call__(self) -> np.ndarray:
        self.times += 1
        return self.features


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYRO_SRI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> Path:
    (file,) = (cache / "features").iterdir()
    return file


# Features


def test_computed_once() -> None:
    compute = Computing()
    for _ in range(3):
        features = cached_features(Extractor(), "hash", 4, compute)
        np.testing.assert_array_equal(features, FEATURES)
        assert features.dtype == np.float32
    assert compute.times == 1


def test_another_extractor_or_other_images_are_computed() -> None:
    cached_features(Extractor(), "hash", 4, Computing())
    for extractor, images in ((Extractor("two"), "hash"), (Extractor(), "other")):
        compute = Computing(FEATURES + 1)
        np.testing.assert_array_equal(cached_features(extractor, images, 4, compute), FEATURES + 1)
        assert compute.times == 1


def test_features_that_do_not_fit_are_computed_anew() -> None:
    cached_features(Extractor(), "hash", 4, Computing())
    for size, count in ((2, 4), (2, 5)):
        compute = Computing(np.zeros((count, size), np.float32))
        assert cached_features(Extractor(size=size), "hash", count, compute).shape == (count, size)
        assert compute.times == 1


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(FEATURES.tobytes()) + 5] ^= 1
    file.write_bytes(content)


def renamed(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, moments=FEATURES)


def pickled(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, features=np.array([[print] * 3] * 4, dtype=object))


def not_finite(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, features=np.full((4, 3), np.nan, np.float32))


def doubled(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, features=FEATURES.astype(np.float64))


@pytest.mark.parametrize("damage", [cut_short, emptied, flipped, renamed, pickled, not_finite, doubled])
def test_a_damaged_file_is_computed_anew_and_mended(damage: Callable[[Path], None], cache: Path) -> None:
    cached_features(Extractor(), "hash", 4, Computing())
    damage(kept(cache))
    compute = Computing()
    for _ in range(2):
        np.testing.assert_array_equal(cached_features(Extractor(), "hash", 4, compute), FEATURES)
    assert compute.times == 1


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    compute = Computing()
    for _ in range(2):
        np.testing.assert_array_equal(cached_features(Extractor(), "hash", 4, compute), FEATURES)
    assert compute.times == 2


def test_what_fails_leaves_nothing(cache: Path) -> None:
    def failing() -> np.ndarray:
        raise UserError("the images are damaged")

    with pytest.raises(UserError, match="damaged"):
        cached_features(Extractor(), "hash", 4, failing)
    assert not cache.exists()


# Where


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYRO_SRI_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_folder() == Path("/own")
    monkeypatch.setenv("PYRO_SRI_CACHE", "")
    assert cache_folder() == Path("/shared/pyro-sri")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pyro-sri"


# The hash of the images


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)


def written(path: Path, images: np.ndarray, split: str = "test") -> Path:
    write_dataset(path, {split: [SceneArrays(images)]}, {})
    return path


def test_equal_images_have_equal_hashes(tmp_path: Path, images: np.ndarray) -> None:
    path = written(tmp_path / "a.h5", images)
    own = images_hash(path, "test")
    assert own == images_hash(path, "test", 300) == images_hash(path, "test", 1000)
    assert own == images_hash(written(tmp_path / "b.h5", images, "val"), "val")
    assert images_hash(path, "test", 260) == images_hash(written(tmp_path / "c.h5", images[:260]), "test")


def test_other_images_have_other_hashes(tmp_path: Path, images: np.ndarray) -> None:
    edited = images.copy()
    edited[299, 3, 3, 2] ^= 1
    paths = [written(tmp_path / "a.h5", images), written(tmp_path / "b.h5", edited)]
    paths.append(written(tmp_path / "c.h5", images[::-1]))
    paths.append(written(tmp_path / "d.h5", images.reshape(75, 8, 8, 3)))
    hashes = {images_hash(path, "test") for path in paths} | {images_hash(paths[0], "test", 299)}
    assert len(hashes) == 5
    # What was edited lies beyond the images that are used.
    assert images_hash(paths[0], "test", 299) == images_hash(paths[1], "test", 299)


def test_an_edited_file_never_gets_the_old_features(tmp_path: Path, images: np.ndarray) -> None:
    path = written(tmp_path / "a.h5", images)
    cached_features(Extractor(), images_hash(path, "test", 4), 4, Computing())
    path.unlink()
    images[2, 0, 0, 0] ^= 1
    compute = Computing(FEATURES + 1)
    features = cached_features(Extractor(), images_hash(written(path, images), "test", 4), 4, compute)
    np.testing.assert_array_equal(features, FEATURES + 1)


def test_a_missing_split_is_named(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(UserError, match="no split 'val'"):
        images_hash(written(tmp_path / "a.h5", images), "val")
