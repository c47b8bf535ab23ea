"""The last step of every generative story, in which slots become an image."""

import pyro
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, reconstruct
from pyro_sri.nn import SlotImages, in_single
from pyro_sri.system.errors import UserError


def sample_image(likelihood: ImageLikelihood, slot_images: SlotImages, images: Tensor | None) -> Tensor:
    """x ~ p(x | z_1:K), with the appearance of the slots as deterministic sites.

    Sites, inside the caller's plate: `slot_rgb` [K, 3, H, W], `slot_masks` [K, 1, H, W] (probabilities),
    `reconstruction` [3, H, W] (mask-weighted mean), `image` [3, H, W].

    Args:
        likelihood: p(x | z).
        slot_images: The decoded slots.
        images: Observed images [B, 3, H, W] in [0, 1]; None to sample.
    """
    rgb, log_masks = map(in_single, slot_images)
    pyro.deterministic("slot_rgb", rgb, event_dim=4)
    pyro.deterministic("slot_masks", log_masks.exp(), event_dim=4)
    pyro.deterministic("reconstruction", reconstruct(rgb, log_masks), event_dim=3)
    return pyro.sample("image", likelihood(rgb, log_masks), obs=images)


def batch_size(images: Tensor | None, num_scenes: int | None) -> int:
    """The size of the plate `scenes`: that of the images, or the number asked for (1 if neither is given).

    Raises:
        UserError: If it is less than 1.
    """
    if images is not None:
        return len(images)
    if num_scenes is not None and num_scenes < 1:
        raise UserError(f"{num_scenes} scenes cannot be drawn: ask for 1 or more")
    return 1 if num_scenes is None else num_scenes
