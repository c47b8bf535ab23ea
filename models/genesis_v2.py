"""GENESIS-v2 (Engelcke et al. 2021): its generative story, and that of the segregation pair with independent slots."""

import pyro
import torch
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, StandardNormal, diagonal_normal, genesis_prior_scale
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import GaussianLSTM, SlotDecoder
from pyro_sri.programs import Latents, Program, Record

HIDDEN_FACTOR = 4  # LSTM units per slot dimension


class IndependentSlotModel(Program):
    r"""A set of independent slots and an image. SRI segregates images with it.

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

    record = Record((Latents("segregated_slots", "kl_slots"),))

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        likelihood: ImageLikelihood = ImageLikelihood(),
        name: str = "independent_slot_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.likelihood = likelihood
        self.slot_prior = StandardNormal(slot_size)
        self.decoder = SlotDecoder(image_size, slot_size)

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
            prior = self.slot_prior(num_scenes, num_slots, temperature=temperature)
            slots = pyro.sample("segregated_slots", prior)  # [B, K, D]
            return sample_image(self.likelihood, self.decoder(slots), images)


class AutoregressiveSlotModel(Program):
    r"""A sequence of slots and an image: GENESIS-v2 on its own (Engelcke et al. 2021, section 3).

    .. math::
        z_1 &\sim \mathcal{N}(0, I) \\
        z_k &\sim p(z_k \mid z_{<k}) = \mathcal{N}(\mu_k, \sigma_k^2), \quad
            (\mu_k, \sigma_k) = \mathrm{LSTM}(z_{<k}), \quad k = 2 .. K \\
        x &\sim p(x \mid z_{1:K})

    The prior means pass through a tanh, so that they stay within [-1, 1].

    Sites, in the plate `scenes`: `slot_0` .. `slot_{K-1}` [D], `image` [3, H, W]; deterministic `slot_rgb`
    [K, 3, H, W], `slot_masks` [K, 1, H, W], `reconstruction` [3, H, W].

    Args:
        image_size: Image side H = W, a multiple of 16.
        num_slots: K.
        slot_size: D, a multiple of 8.
        likelihood: p(x | z).
        lstm_units: Units of the slot prior. None means 4D, as published.
        name: Root of the parameters' names in Pyro's store.
    """

    record = Record((Latents("slot_{k}", "kl_slots"),))

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        likelihood: ImageLikelihood = ImageLikelihood(),
        lstm_units: int | None = None,
        name: str = "autoregressive_slot_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.likelihood = likelihood
        self.first_prior = StandardNormal(slot_size)
        self.slot_prior = GaussianLSTM(slot_size, lstm_units or HIDDEN_FACTOR * slot_size, slot_size)
        self.decoder = SlotDecoder(image_size, slot_size)

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
        with pyro.plate("scenes", num_scenes):
            prior, state = self.first_prior(num_scenes, temperature=temperature), None
            slots: list[Tensor] = []
            for k in range(self.num_slots if num_slots is None else num_slots):
                if k:
                    loc, raw_scale, state = self.slot_prior(slots[-1], state)  # [B, D]
                    prior = diagonal_normal(loc.tanh(), temperature * genesis_prior_scale(raw_scale))
                slots.append(pyro.sample(f"slot_{k}", prior))
            return sample_image(self.likelihood, self.decoder(torch.stack(slots, 1)), images)
