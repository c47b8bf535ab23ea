"""The generative half of the segregation pair: GENESIS-v2 with independent slots (Engelcke et al. 2021)."""

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, diagonal_normal
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import SlotDecoder


class IndependentSlotModel(PyroModule):
    r"""A set of independent slots and an image: what SRI segregates images with.

    .. math::
        z^\pi_k &\sim \mathcal{N}(0, I), \quad k = 1 .. K \\
        x &\sim p(x \mid z^\pi_{1:K})

    Sites, in the plate `scenes`: `segregated_slots` [K, D], `image` [3, H, W]; deterministic `slot_rgb`, `slot_masks`,
    `reconstruction` as in the scene model.

    Args:
        image_size: Image side H = W, a multiple of 16.
        num_slots: K.
        slot_size: D, a multiple of 8.
        likelihood: p(x | z).
        name: Root of the parameters' names in Pyro's store.
    """

    slot_loc: Tensor
    slot_scale: Tensor

    @pyro.settings.context(module_local_params=True)
    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        likelihood: ImageLikelihood = ImageLikelihood(),
        name: str = "independent_slot_model",
    ) -> None:
        super().__init__(name)
        self.num_slots = num_slots
        self.likelihood = likelihood
        self.decoder = SlotDecoder(image_size, slot_size)
        self.register_buffer("slot_loc", torch.zeros(slot_size), persistent=False)
        self.register_buffer("slot_scale", torch.ones(slot_size), persistent=False)

    def forward(
        self,
        images: Tensor | None = None,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The generative story; arguments as those of the scene model."""
        num_scenes = batch_size(images, num_scenes)
        shape = (num_scenes, self.num_slots if num_slots is None else num_slots, -1)
        with pyro.plate("scenes", num_scenes):
            prior = diagonal_normal(self.slot_loc.expand(shape), temperature * self.slot_scale.expand(shape), 2)
            slots = pyro.sample("segregated_slots", prior)  # [B, K, D]
            return sample_image(self.likelihood, self.decoder(slots), images)
