"""The hierarchical autoregressive slot VAE of SRI (Emami et al. 2023, section 3)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.distributions import Independent
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, StandardNormal, diagonal_normal, sri_scale
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import SlotDecoderKind, SlotPrior, slot_decoder
from pyro_sri.programs import Program


class SceneModel(Program):
    r"""A scene variable, an ordered sequence of slots, and an image.

    .. math::
        s &\sim \mathcal{N}(0, I) \\
        z_k &\sim p(z_k \mid z_{<k}, s) = \mathcal{N}(\mu_k, \sigma_k^2), \quad
            (\mu_k, \sigma_k) = \mathrm{LSTM}(s, z_{<k}), \quad k = 1 .. K \\
        x &\sim p(x \mid z_{1:K})

    (equations 1 to 4). Each slot is decoded on its own into a colour image and a mask. The masks compete in a softmax.

    Sites, in the plate `scenes` over images: `scene` [S], `slot_0` .. `slot_{K-1}` [D], `image` [3, H, W];
    deterministic `slot_rgb` [K, 3, H, W], `slot_masks` [K, 1, H, W], `reconstruction` [3, H, W].

    Args:
        image_size: Image side H = W, a multiple of 16. With "iodine" and "small", any size.
        num_slots: K.
        slot_size: D, a multiple of 8.
        scene_size: S; 0 leaves the scene variable out, and p(z_1) = N(0, I) (table 3a).
        likelihood: p(x | z).
        lstm_units: Units of the slot prior. None means 4D, as published.
        decoder: GENESIS-v2's decoder, or one of EMORL's ("iodine", "big", "small").
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On an unknown decoder, or an image size that it does not take.
    """

    starts_small = ("slot_prior",)
    _decodes = True

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        scene_size: int = 128,
        likelihood: ImageLikelihood = ImageLikelihood(),
        lstm_units: int | None = None,
        decoder: SlotDecoderKind = "genesis_v2",
        name: str = "scene_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.likelihood = likelihood
        self.scene_prior = StandardNormal(scene_size)
        self.slot_prior = SlotPrior(slot_size, scene_size, lstm_units)
        self.decoder = slot_decoder(image_size, slot_size, decoder)
        self.has_scene = scene_size > 0

    def scene_dist(self, num_scenes: int, temperature: float = 1.0) -> Independent:
        """p(s) = Normal(0, T^2 I), [B, S]."""
        return self.scene_prior(num_scenes, temperature=temperature)

    def sample_slots(self, num_scenes: int, num_slots: int, temperature: float = 1.0) -> Tensor:
        """s and z_1:K, inside the caller's plate: slots [B, K, D]."""
        scene = self.scene_prior.loc.new_zeros(num_scenes, 0)
        if self.has_scene:
            scene = pyro.sample("scene", self.scene_dist(num_scenes, temperature))  # [B, S]
        loc, raw_scale, state = self.slot_prior.first(scene)  # [B, D]
        slots: list[Tensor] = []
        for k in range(num_slots):
            if k > 0:
                loc, raw_scale, state = self.slot_prior.step(slots[-1], state)
            slots.append(pyro.sample(f"slot_{k}", diagonal_normal(loc, temperature * sri_scale(raw_scale))))
        return torch.stack(slots, 1)

    @contextmanager
    def undecoded(self) -> Iterator[None]:
        """Inside, the story ends with the slots: they are returned, and there is no image."""
        self._decodes = False
        try:
            yield
        finally:
            self._decodes = True

    def forward(
        self,
        images: Tensor | None = None,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The generative story.

        Args:
            images: Observed images [B, 3, H, W] in [0, 1]; None to sample them.
            num_scenes: Number of scenes to sample when there are no images.
            num_slots: Number of slots, K if None; any number works.
            temperature: Factor T on every prior standard deviation.

        Returns:
            Images [B, 3, H, W]; inside `undecoded`, the slots [B, K, D].
        """
        num_scenes = batch_size(images, num_scenes)
        with pyro.plate("scenes", num_scenes):
            slots = self.sample_slots(num_scenes, self.num_slots if num_slots is None else num_slots, temperature)
            return sample_image(self.likelihood, self.decoder(slots), images) if self._decodes else slots
