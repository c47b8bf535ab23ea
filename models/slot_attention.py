"""The decoding half of the Slot Attention auto-encoder (Locatello et al. 2020)."""

import pyro
from pyro import poutine
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, StandardNormal
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import PositionDecoder, PositionDecoderKind
from pyro_sri.programs import Latents, Program, Record

UNIT_PIXEL_STD = 0.5**0.5  # with it the squared error is the negative log-likelihood up to a constant


class SlotAttentionModel(Program):
    r"""Slots and an image. This is an auto-encoder, so the slots are not scored.

    .. math:: x \sim \mathcal{N}\big(\textstyle\sum_k m_k \mu_k,\ \tfrac{1}{2}\big)

    whose negative logarithm is the squared error up to a constant. An auto-encoder has no prior. N(0, I) replaces it,
    so that the program can run forward, but samples are not expected to look like images.

    Sites, in the plate `scenes`: `segregated_slots` [K, D] (masked), `image` [3, H, W]; deterministic `slot_rgb`,
    `slot_masks`, `reconstruction` as in the scene model.

    Args:
        image_size: Image side H = W; a multiple of 16 with the decoder "big", otherwise any.
        num_slots: K.
        slot_size: D.
        decoder: "iodine", "big" or "small".
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On an unknown decoder, or an image size that it does not take.
    """

    record = Record((Latents("segregated_slots", None),), has_prior=False)

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        decoder: PositionDecoderKind = "small",
        name: str = "slot_attention_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.likelihood = ImageLikelihood(kind="gaussian", pixel_std=UNIT_PIXEL_STD)
        self.any_slots = StandardNormal(slot_size)
        self.decoder = PositionDecoder(image_size, slot_size, decoder)

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
        num_slots = self.num_slots if num_slots is None else num_slots
        with pyro.plate("scenes", num_scenes):
            any_slots = self.any_slots(num_scenes, num_slots, temperature=temperature)
            with poutine.mask(mask=False):
                slots = pyro.sample("segregated_slots", any_slots)  # [B, K, D]
            return sample_image(self.likelihood, self.decoder(slots), images)
