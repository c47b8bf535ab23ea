"""Scattering features: against SciPy's filters, on waves, and as a measure of how bad images are."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d, gaussian_filter
from torch import Tensor

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import to_images
from pyro_sri.data.making import make_dataset
from pyro_sri.features import ScatteringFeatures, extract
from pyro_sri.metrics.frechet import frechet_distance

NUM = 100  # images in each half of a family


@pytest.fixture(scope="module")
def extractor() -> ScatteringFeatures:
    return ScatteringFeatures()


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder: Path = tmp_path_factory.mktemp("families")
    images = {}
    for name in ("tetrominoes", "multi_dsprites"):
        make_dataset(name, folder / f"{name}.h5", size=64, train=0, val=0, test=2 * NUM, seed=5)
        with DatasetFile(folder / f"{name}.h5") as file:
            images[name] = to_images(torch.from_numpy(file.images("test")[:]), "cpu")
    return images


# What the numbers are


def by_scipy(image: np.ndarray) -> np.ndarray:
    """The features of one image [3, 64, 64], in float64, filter by filter and cell by cell."""
    offsets = np.arange(-4, 5)
    gaussian = np.exp(-(offsets**2) / (2 * 0.8**2))
    gaussian /= gaussian.sum()
    wave = np.exp(0.75j * np.pi * offsets)
    morlet = gaussian * (wave - (gaussian * wave).sum())

    def filtered(x: np.ndarray, down: np.ndarray, along: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x.astype(complex), down, axis=0, mode="reflect"), along, axis=1, mode="reflect")

    def amplitudes(x: np.ndarray) -> list[np.ndarray]:
        wavelets = ((gaussian, morlet), (morlet, gaussian), (morlet, morlet), (morlet, morlet.conj()))
        return [2 * np.abs(filtered(x, *wavelet)) for wavelet in wavelets]

    def halved(x: np.ndarray) -> np.ndarray:
        return filtered(x, gaussian, gaussian).real[::2, ::2]

    def cells(x: np.ndarray, sides: int) -> list[float]:
        return [cell.mean() for row in np.split(x, sides, axis=0) for cell in np.split(row, sides, axis=1)]

    colours = np.array([[1.0, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    maps = list(np.tensordot(colours, np.round(255 * image) / 255, axes=1))
    features = [mean for colour in maps for mean in cells(colour, 4)]
    for scale in range(4):
        first = [amplitudes(colour) for colour in maps]
        features += [math.sqrt(mean) for colour in first for x in colour for mean in cells(x, 2)]
        arranged = first[0]
        for _ in range(scale + 1, 4):
            arranged = [halved(x) for x in arranged]
            features += [math.sqrt(y.mean()) for x in arranged for y in amplitudes(x)]
        maps = [halved(colour) for colour in maps]
    return np.array(features)


def test_like_scipys_filters(extractor: ScatteringFeatures) -> None:
    images = np.random.default_rng(0).random((2, 3, 64, 64))
    features = extractor(torch.from_numpy(images).float())
    assert features.shape == (2, extractor.size)
    assert features.dtype == torch.float32
    for image, values in zip(images, features, strict=True):
        np.testing.assert_allclose(values, by_scipy(image), atol=1e-6)


def test_the_name_says_the_size(extractor: ScatteringFeatures) -> None:
    assert extractor.name == "scattering-64-336-v1"
    assert extractor.size == 336


def test_a_plain_image_has_only_its_colour(extractor: ScatteringFeatures) -> None:
    colour = torch.tensor([51.0, 102, 204]) / 255
    features = extractor(colour.view(1, 3, 1, 1).expand(1, 3, 64, 64))[0]
    for values, expected in zip(features[:48].split(16), (357 / 3**0.5, -153 / 2**0.5, -51 / 6**0.5), strict=True):
        torch.testing.assert_close(values, torch.full((16,), expected / 255))
    assert features[48:].max() < 2e-3  # square roots of rounding


@pytest.mark.parametrize(("orientation", "vector"), [(0, (1, 0)), (1, (0, 1)), (2, (1, 1)), (3, (-1, 1))])
def test_a_wave_shows_in_the_wavelet_of_its_orientation(
    extractor: ScatteringFeatures, orientation: int, vector: tuple[int, int]
) -> None:
    # A grey wave of the finest wavelet's own frequency, 24 periods over 64 pixels.
    down, along = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    wave = torch.cos(0.75 * math.pi * (vector[0] * along + vector[1] * down))
    images = (0.5 + 0.4 * wave).expand(1, 3, 64, 64)
    brightness = extractor(images)[0, 48:64].view(4, 4)  # order 1, finest scale: orientations, cells
    amplitudes = brightness.square().mean(1)
    assert int(amplitudes.argmax()) == orientation
    # Brightness is the sum of the colours over sqrt(3).
    assert amplitudes[orientation].item() == pytest.approx(0.4 * 3**0.5, rel=0.1)


def test_layout_counts(extractor: ScatteringFeatures) -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[..., 8:24, 8:24] = 1
    moved = images.roll(32, dims=-1)
    differences = (extractor(images) - extractor(moved)).abs()[0]
    assert differences[:16].max() > 0.1  # brightness in cells
    assert differences[48:64].max() > 0.1  # edges in cells


def test_a_value_per_image_whatever_the_batch(extractor: ScatteringFeatures) -> None:
    images = torch.rand(35, 3, 32, 32)
    together = extractor(images)
    for batch in (1, 16, 20):
        apart = torch.cat([extractor(part) for part in images.split(batch)])
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-5)
    assert torch.equal(extractor(images), together)
    assert extractor(images[:0]).shape == (0, 336)


@pytest.mark.parametrize("size", [32, 35, 50, 96, 128])
def test_any_image_size(extractor: ScatteringFeatures, size: int) -> None:
    down, along = torch.meshgrid(torch.linspace(0, 1, 256), torch.linspace(0, 1, 256), indexing="ij")
    scene = torch.stack([down, along, (((down - 0.4) ** 2 + (along - 0.6) ** 2) < 0.05).float()])[None]
    small, own = (F.interpolate(scene, size=(n, n), mode="area") for n in (size, 64))
    features, expected = extractor(small), extractor(own)
    assert (features - expected).norm() < 0.1 * (expected - extractor(own.flip(-1))).norm()


def test_a_saved_picture_has_the_same_features(extractor: ScatteringFeatures) -> None:
    images = torch.rand(2, 3, 64, 64) * 1.2 - 0.1
    saved = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(extractor(images), extractor(saved / 255))


def test_no_random_numbers_are_drawn(extractor: ScatteringFeatures) -> None:
    images = torch.rand(2, 3, 64, 64)
    before = torch.get_rng_state()
    assert torch.equal(extractor(images), ScatteringFeatures()(images))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_features_stay_on_the_images_device(extractor: ScatteringFeatures) -> None:
    images = torch.rand(4, 3, 50, 50)
    on_gpu = extractor(images.cuda())
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), extractor(images), rtol=0, atol=1e-3)


# What they are for


def noise(images: Tensor, level: float) -> Tensor:
    return images + 0.1 * level * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def blur(images: Tensor, level: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 0.75 * level, 0.75 * level)))


def swapped_patches(images: Tensor, level: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    patches = F.unfold(images, 16, stride=16)  # [B, 768, 16]
    for image in range(len(images)):
        chosen = torch.randperm(16, generator=generator)[: 2 * round(level)]
        patches[image, :, chosen] = patches[image, :, chosen.flip(0)]
    return F.fold(patches, 64, 16, stride=16)


def salt_and_pepper(images: Tensor, level: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    hit, white = torch.rand(2, len(images), 1, 64, 64, generator=generator)
    return torch.where(hit < 0.02 * level, (white < 0.5).float(), images)


def colour_shift(images: Tensor, level: float) -> Tensor:
    return images + 0.08 * level * torch.tensor([1.0, 0, -1]).view(3, 1, 1)


@pytest.fixture(scope="module")
def halves(extractor: ScatteringFeatures, families: dict[str, Tensor]) -> dict[str, list[np.ndarray]]:
    """The features of both halves of each family."""
    return {name: [extract(extractor, [half]) for half in images.split(NUM)] for name, images in families.items()}


@pytest.mark.parametrize("corrupt", [noise, blur, swapped_patches, salt_and_pepper, colour_shift])
def test_the_distance_grows_with_the_corruption(
    extractor: ScatteringFeatures,
    families: dict[str, Tensor],
    halves: dict[str, list[np.ndarray]],
    corrupt: Callable[[Tensor, float], Tensor],
) -> None:
    real, other = halves["multi_dsprites"]
    images = families["multi_dsprites"][NUM:]
    corrupted = [extract(extractor, [corrupt(images, level)]) for level in (1, 2, 4)]
    distances = [frechet_distance(real, features) for features in (other, *corrupted)]
    assert distances == sorted(distances)
    assert distances[-1] > 1.5 * distances[0]


def test_families_are_further_apart_than_their_halves(halves: dict[str, list[np.ndarray]]) -> None:
    (one, two), (three, four) = halves.values()
    within = max(frechet_distance(one, two), frechet_distance(three, four))
    assert 10 * within < frechet_distance(one, four)
