"""Reading Inception from a TorchScript file: what it is called with, what is refused, how the file is found."""

import hashlib
import http.client
import io
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_sri.features import InceptionFeatures, cache_folder, find_inception, inception
from pyro_sri.system.errors import UserError
from support.mistakes import one_line


class WithFlag(nn.Module):
    """Called as NVIDIA's file: features on request, else class probabilities. Its features are the first pixels."""

    def forward(self, images: Tensor, return_features: bool = False, use_fp16: bool = False) -> Tensor:
        assert images.dtype == torch.uint8
        if return_features:
            return images.flatten(1)[:, :2048].float()
        return torch.zeros(len(images), 1008)


class Plain(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images.flatten(1)[:, :2048].float()


class TooFew(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1000].float()


class Integers(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2048]


class TwoImages(nn.Module):
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return images.flatten(1)[:, :2048].float()


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("no\nsuch\nthing")


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYRO_SRI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(inception.urllib.request, "urlopen", refuse)


# The features


@pytest.mark.parametrize("kind", [WithFlag, Plain])
def test_the_file_gets_8_bit_images(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    extractor = InceptionFeatures(scripted(kind(), tmp_path / "own.pt"))
    images = torch.rand(3, 3, 32, 32)
    images[:, 0, 0, :5] = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.5])
    features = extractor(images)
    rounded = torch.floor(images.clamp(0, 1) * 255 + 0.5)
    assert torch.equal(features, rounded.flatten(1)[:, :2048])
    assert features[:, :5].tolist() == [[0, 0, 1, 255, 255]] * 3


def test_the_name_says_which_file(tmp_path: Path) -> None:
    path = scripted(Plain(), tmp_path / "own.pt")
    extractor = InceptionFeatures(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.name == f"inception-v3-pool3-2048-{digest[:8]}"
    assert extractor.size == 2048
    assert InceptionFeatures(scripted(WithFlag(), tmp_path / "other.pt")).name != extractor.name


def test_no_gradients_are_kept(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not InceptionFeatures(scripted(Plain(), tmp_path / "own.pt"))(images).requires_grad


@pytest.mark.parametrize("kind", [TooFew, Integers, TwoImages, Failing])
def test_other_modules_are_refused(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = scripted(kind(), tmp_path / "own.pt")
    with pytest.raises(UserError) as caught:
        InceptionFeatures(path)
    one_line(caught, str(path), "not an Inception network", "[B, 2048]")


def cut_short(path: Path) -> None:
    whole = scripted(Plain(), path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def weights_only(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("make", [cut_short, weights_only, lambda path: path.write_bytes(b"<html>")])
def test_damaged_files_are_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    make(path)
    with pytest.raises(UserError) as caught:
        InceptionFeatures(path)
    one_line(caught, str(path), "not a TorchScript file")


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_files_that_cannot_be_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        InceptionFeatures(tmp_path / name)
    one_line(caught, "cannot read")


# Finding the file


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> list[bytes | Exception]:
    """What the home of the weights answers, in turn; the known file is b"weights"."""
    answers: list[bytes | Exception] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url == inception.URL
        assert 0 < timeout <= 60
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(inception.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"weights").hexdigest())
    return answers


def test_the_users_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(b"anything")
    assert find_inception(tmp_path / "own.pt", download=True) == tmp_path / "own.pt"


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_a_users_file_that_is_missing_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_inception(tmp_path / name, download=True)
    one_line(caught, "there is no file", str(tmp_path))


def test_nothing_is_downloaded_unless_asked(cache: Path) -> None:
    assert find_inception() is None
    assert not cache.exists()


def test_downloaded_once(home: list[bytes | Exception], cache: Path) -> None:
    home.append(b"weights")
    path = find_inception(download=True)
    assert path == cache_folder() / "inception-2015-12-05.pt"
    assert path.read_bytes() == b"weights"
    assert list(cache.iterdir()) == [path]  # no temporary file is left
    assert find_inception(download=True) == path  # a second download would fail
    assert find_inception() == path


@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.URLError("no route"),
        TimeoutError(),
        urllib.error.HTTPError("", 404, "gone", None, None),  # type: ignore[arg-type]
        http.client.IncompleteRead(b"wei"),
        b"<html>please log in</html>",
        b"weights and more",
    ],
)
def test_none_where_it_cannot_be_had(home: list[bytes | Exception], cache: Path, answer: bytes | Exception) -> None:
    home.append(answer)
    assert find_inception(download=True) is None
    assert not cache.exists()


def test_a_damaged_copy_is_replaced_or_left_alone(home: list[bytes | Exception], cache: Path) -> None:
    cache.mkdir()
    kept = cache / "inception-2015-12-05.pt"
    kept.write_bytes(b"weight")
    assert find_inception() is None
    home += [OSError("no network"), b"weights"]
    assert find_inception(download=True) is None
    assert find_inception(download=True) == kept
    assert kept.read_bytes() == b"weights"


def test_none_where_the_cache_cannot_be_written(home: list[bytes | Exception], cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    home.append(b"weights")
    assert find_inception(download=True) is None
