"""GENESIS (Engelcke et al. 2020): first where things are, then what they look like."""

import pyro
import torch
from torch import Tensor, nn

from pyro_sri.distributions import (
    Deferred,
    ImageLikelihood,
    StandardNormal,
    diagonal_normal,
    genesis_prior_scale,
)
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import ComponentDecoder, ComponentPrior, GaussianLSTM, MaskDecoder, SlotImages
from pyro_sri.programs import Latents, Program, Record

PRIOR_UNITS = 256


def draw_log_masks(decoder: MaskDecoder, mask_slots: Tensor, image_size: int) -> Tensor:
    """The masks that follow from the mask latents, as the site `log_masks` of model and guide.

    Both programs need them, and decoding them is most of GENESIS' computation. Whichever program runs first computes
    them, and batch normalisation sees them once.

    Args:
        decoder: The model's mask decoder.
        mask_slots: [B, K, L].
        image_size: Image side H = W.

    Returns:
        Log masks [B, K, 1, H, W].
    """
    num_scenes, num_slots, _ = mask_slots.shape
    shape = (num_slots, 1, image_size, image_size)
    return pyro.sample("log_masks", Deferred(lambda: decoder(mask_slots), (num_scenes,), shape))


class GenesisModel(Program):
    r"""A sequence of mask latents, a component latent for each, and an image (Engelcke et al. 2020, section 3).

    .. math::
        z^m_1 &\sim \mathcal{N}(0, I) \\
        z^m_k &\sim p(z^m_k \mid z^m_{<k}) = \mathcal{N}(\mu_k, \sigma_k^2), \quad
            (\mu_k, \sigma_k) = \mathrm{LSTM}(z^m_{<k}), \quad k = 2 .. K \\
        m_{1:K} &= \mathrm{StickBreaking}(\mathrm{Decoder}_m(z^m_{1:K})) \\
        z^c_k &\sim p(z^c_k \mid z^m_k), \quad k = 1 .. K \\
        x &\sim \textstyle\prod_i \sum_k m_{ik}\, \mathcal{N}(x_i;\ \mathrm{Decoder}_c(z^c_k)_i,\ \sigma_k^2)

    All learned prior means pass through a tanh. The authors' code leaves it out for the mask latents when it samples.
    `squash_samples=False` does the same. Images are then drawn from a different prior than the one that was trained.

    Sites, in the plate `scenes`: `mask_slot_0` .. `mask_slot_{K-1}` [L], `log_masks` [K, 1, H, W] (follows from them),
    `component_slot_0` .. `component_slot_{K-1}` [C], `image` [3, H, W]; deterministic `slot_rgb` [K, 3, H, W],
    `slot_masks` [K, 1, H, W], `reconstruction` [3, H, W]. If you fix mask latents by hand, leave `log_masks`
    free, so that it is computed again.

    Args:
        image_size: Image side H = W, 32 or 64.
        num_slots: K.
        mask_slot_size: L.
        component_slot_size: C.
        mask_channels: Channels of the mask decoder's last layers, and of the mask encoder's first layers.
        decoder_channels: Channels of the component decoder.
        decoder_layers: Number of its 3x3 convolutions.
        likelihood: p(x | z). Its `first_pixel_std` applies to the first slot.
        squash_samples: Whether the mask prior's means also pass through the tanh when there are no images.
        scene_size: S of a scene variable that the mask prior starts from, as in SRI (Emami et al. 2023, table 4). Its
            site `scene` [S] then comes first. 0 means none, as published.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On another image size.
    """

    record = Record(
        (
            Latents("scene", "kl_scene", "scene"),
            Latents("mask_slot_{k}", "kl_masks", code=False, label="mask"),
            Latents("component_slot_{k}", "kl_components", label="comp."),
        )
    )

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        mask_slot_size: int = 64,
        component_slot_size: int = 16,
        mask_channels: int = 32,
        decoder_channels: int = 32,
        decoder_layers: int = 4,
        likelihood: ImageLikelihood = ImageLikelihood(),
        squash_samples: bool = True,
        scene_size: int = 0,
        name: str = "genesis_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.mask_slot_size = mask_slot_size
        self.component_slot_size = component_slot_size
        self.mask_channels = mask_channels
        self.likelihood = likelihood
        self.squash_samples = squash_samples
        self.scene_prior = StandardNormal(scene_size)
        self.first_prior = StandardNormal(mask_slot_size)
        self.mask_prior = GaussianLSTM(mask_slot_size, PRIOR_UNITS, mask_slot_size)
        self.first_input = nn.Sequential(nn.Linear(scene_size, mask_slot_size), nn.GELU()) if scene_size else None
        self.mask_decoder = MaskDecoder(image_size, mask_slot_size, mask_channels)
        self.component_prior = ComponentPrior(mask_slot_size, component_slot_size)
        self.component_decoder = ComponentDecoder(image_size, component_slot_size, decoder_channels, decoder_layers)

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
            Images [B, 3, H, W].
        """
        num_scenes = batch_size(images, num_scenes)
        num_slots = self.num_slots if num_slots is None else num_slots
        squash = self.squash_samples or images is not None
        with pyro.plate("scenes", num_scenes):
            prior = self.first_prior(num_scenes, temperature=temperature)
            inputs, state = None, None
            if self.first_input is not None:
                scene = pyro.sample("scene", self.scene_prior(num_scenes, temperature=temperature))  # [B, S]
                inputs = self.first_input(scene)  # [B, L]
            drawn: list[Tensor] = []
            for k in range(num_slots):
                if k:
                    inputs = drawn[-1]
                if inputs is not None:
                    loc, raw_scale, state = self.mask_prior(inputs, state)  # [B, L]
                    loc, scale = loc.tanh() if squash else loc, genesis_prior_scale(raw_scale)
                    prior = diagonal_normal(loc, temperature * scale)
                drawn.append(pyro.sample(f"mask_slot_{k}", prior))
            log_masks = draw_log_masks(self.mask_decoder, torch.stack(drawn, 1), self.image_size)  # [B, K, 1, H, W]

            components = []
            for k, mask_slot in enumerate(drawn):
                loc, raw_scale = self.component_prior(mask_slot)  # [B, C]
                dist = diagonal_normal(loc.tanh(), temperature * genesis_prior_scale(raw_scale))
                components.append(pyro.sample(f"component_slot_{k}", dist))
            rgb = self.component_decoder(torch.stack(components, 1))  # [B, K, 3, H, W]
            return sample_image(self.likelihood, SlotImages(rgb, log_masks), images)
