"""A configuration for any data, chosen by looking at the images.

The recipe is that of the quick presets, which docs/quick.md explains and measures. The rules that adapt it to other
data are our own rules of thumb.
"""

import dataclasses
import math
from typing import Any

from pyro_sri.config.sri import SRIConfig
from pyro_sri.data.look import Look
from pyro_sri.system.errors import UserError

FLAT_COLOURS = 16  # images with more colours are not flat
OFTEN_ALIKE = 0.2  # share of the images from which colour alone no longer distinguishes objects
GUESSED_SLOTS = 7  # if neither masks nor flat regions give the number of objects
SLOTS = (3, 16)

# sigma as a share of the data's standard deviation: the share of the quick presets on their data, and twice that for
# images that a decoder of this size cannot paint exactly.
FLAT_SIGMA, OTHER_SIGMA = 0.27, 0.54
SIGMAS = (0.03, 0.2)
LEAST_VARIANCE = 1e-6  # of images in [0, 1]; less cannot be told from none
# Target for the mean squared error as a share of the variance: that of the quick presets on their data, and one that
# sri-quick reaches on rooms in a tenth of its steps.
FLAT_ERROR, OTHER_ERROR = 1 / 7, 1 / 4

QUICK_STEPS, QUICK_SIZE, QUICK_SLOTS, QUICK_MINUTES = 9_000, 32, 6, 12  # sri-quick on a fast core
LONGEST_MINUTES, FEWEST_STEPS = 60, 3_000
GPU_STEPS = 20_000


def suited(config: SRIConfig, look: Look, gpu: bool) -> SRIConfig:
    """The configuration with fields that suit the data.

    Args:
        config: The recipe.
        look: Properties of the data.
        gpu: Whether there is a GPU to train on.

    Raises:
        UserError: If the images do not differ.
    """
    if look.variance < LEAST_VARIANCE:
        raise UserError(
            f"the training images, {look.num_images} in all, are equal or of a single colour, so there is nothing to "
            "learn from them: use more images"
        )
    sigma, mse = _sigma(look), _error(look) * look.variance
    fields: dict[str, Any] = {
        "image_size": look.image_size if look.image_size in config.image_sizes else config.image_size,
        "num_slots": _num_slots(look),
        "likelihood": "gaussian",
        "normalised": True,
        "pixel_std": sigma,
        "geco_target": round(target(sigma, mse), 5),
        "geco_mse": float(f"{mse:.3g}"),  # does not change if the user sets another sigma
        "batch_size": min(config.batch_size, look.num_images),
        "threads": 1 if look.image_size <= QUICK_SIZE else 0,
        **_masks(look),
    }
    return dataclasses.replace(config.stretched(_steps(look, gpu)), **fields)


def target(sigma: float, mse: float) -> float:
    """The Gaussian NLL per pixel and channel, in nats, of an image that is painted with this mean squared error."""
    return 0.5 * math.log(2 * math.pi * sigma**2) + mse / (2 * sigma**2)


def reasons(config: SRIConfig, look: Look, gpu: bool) -> list[tuple[str, str, str]]:
    """Name, value and reason of each choice."""
    mse = _error(look) * look.variance
    slots = "the most entities of an image, background included"
    if look.entities is None:
        slots = "a guess: there are no masks" if not _is_flat(look) else "a guess: regions of one colour in an image"
    start = {
        "picture": "masks start from colours",
        "contrast": "objects often look alike: masks start from contrast and position",
    }[config.colour_start]
    flat = "flat colours" if _is_flat(look) else "no flat colours"
    share = "a seventh" if _is_flat(look) else "a quarter"
    where = "for the GPU here" if gpu else f"about {minutes(config):.0f} minutes on a fast core, estimated"
    return [
        ("images", f"{look.image_size}", f"{look.num_images} to train on"),
        ("slots", f"{config.num_slots}", slots),
        ("likelihood", config.likelihood, "as sri-quick"),
        ("sigma", f"{config.pixel_std:g}", f"{_share(look):g} of the data's standard deviation: {flat}"),
        ("target", f"{config.geco_target:g}", f"an MSE of {mse:.2g}, {share} of the variance {look.variance:.3g}"),
        ("masks", "learned" if config.learn_masks else "fixed", start),
        ("steps", f"{config.steps}", where),
    ]


def minutes(config: SRIConfig) -> float:
    """Estimated minutes of training on a fast core, in proportion to sri-quick."""
    pixels = (config.image_size / QUICK_SIZE) ** 2
    return QUICK_MINUTES * pixels * config.num_slots / QUICK_SLOTS * config.steps / QUICK_STEPS


def _is_flat(look: Look) -> bool:
    return look.colours <= FLAT_COLOURS


def _share(look: Look) -> float:
    return FLAT_SIGMA if _is_flat(look) else OTHER_SIGMA


def _error(look: Look) -> float:
    return FLAT_ERROR if _is_flat(look) else OTHER_ERROR


def _sigma(look: Look) -> float:
    least, most = SIGMAS
    return round(min(max(_share(look) * math.sqrt(look.variance), least), most), 2)


def _num_slots(look: Look) -> int:
    found = look.entities
    if found is None:
        found = look.regions if _is_flat(look) else GUESSED_SLOTS
    return min(max(found, SLOTS[0]), SLOTS[1])


def _masks(look: Look) -> dict[str, Any]:
    """What the masks start from, and whether they are learned."""
    if _is_flat(look) and look.alike is not None and look.alike >= OFTEN_ALIKE and look.num_backgrounds == 1:
        return {"colour_start": "contrast", "position_weight": 0.45, "learn_masks": True, "mask_kl": "attached"}
    return {"colour_start": "picture", "learn_masks": False, "mask_kl": "decoder"}


def _steps(look: Look, gpu: bool) -> int:
    if gpu:
        return GPU_STEPS
    pixels = (look.image_size / QUICK_SIZE) ** 2
    whole = QUICK_MINUTES * pixels * _num_slots(look) / QUICK_SLOTS
    affordable = round(QUICK_STEPS * LONGEST_MINUTES / whole, -2)
    return int(min(QUICK_STEPS, max(FEWEST_STEPS, affordable)))
