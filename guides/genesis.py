"""How GENESIS infers masks and components (Engelcke et al. 2020, section 3)."""

import pyro
import torch
from torch import Tensor, nn

from pyro_sri.distributions import diagonal_normal, genesis_posterior_scale, sri_scale
from pyro_sri.models.genesis import GenesisModel, draw_log_masks
from pyro_sri.nn import MASK_FEATURES, ComponentEncoder, GaussianLSTM, MaskDecoder, MaskEncoder
from pyro_sri.programs import Program

HIDDEN_FACTOR = 2  # LSTM units per dimension of a mask latent


class GenesisGuide(Program):
    r"""Sequential attention: one mask latent after another, then a component latent for each mask.

    .. math::
        h &= \mathrm{Encoder}_m(x) \\
        z^m_k &\sim q(z^m_k \mid z^m_{<k}, x) = \mathcal{N}(\mu_k, \sigma_k^2), \quad
            (\mu_1, \sigma_1) = \mathrm{Linear}(h),\
            (\mu_k, \sigma_k) = \mathrm{LSTM}(h, z^m_{<k}) \\
        m_{1:K} &= \mathrm{StickBreaking}(\mathrm{Decoder}_m(z^m_{1:K})) \\
        z^c_k &\sim q(z^c_k \mid m_k, x) = \mathcal{N}(\mu^c_k, {\sigma^c_k}^2), \quad
            (\mu^c_k, \sigma^c_k) = \mathrm{Encoder}_c(x, \log m_k)

    Sites, in the plate `scenes`: `mask_slot_0` .. `mask_slot_{K-1}` [L], `log_masks` [K, 1, H, W] (computed from them;
    the model reuses it), `component_slot_0` .. `component_slot_{K-1}` [C]; and last, if the model has one, `scene`
    [S] from :math:`q(s \mid z_{1:K})`, an LSTM over the drawn latents in their order.

    Args:
        model: The model. The guide uses its mask decoder, without owning it.
        encoder_channels: Channels of the component encoder.
        name: Root of the parameters' names in Pyro's store.
    """

    record = GenesisModel.record

    def __init__(self, model: GenesisModel, *, encoder_channels: int = 32, name: str = "genesis_guide") -> None:
        super().__init__(name, model.num_slots, model.image_size)
        size = model.mask_slot_size
        self._linked = (model.mask_decoder,)  # a tuple hides it from module registration: the model owns it
        self.mask_encoder = MaskEncoder(model.image_size, model.mask_channels)
        self.first_loc = nn.Linear(MASK_FEATURES, size)
        self.first_raw_scale = nn.Linear(MASK_FEATURES, size)
        self.mask_posterior = GaussianLSTM(MASK_FEATURES + size, HIDDEN_FACTOR * size, size)
        self.component_encoder = ComponentEncoder(model.image_size, model.component_slot_size, encoder_channels)
        scene_size, latents = model.scene_prior.size, size + model.component_slot_size
        self.scene_posterior = GaussianLSTM(latents, HIDDEN_FACTOR * size, scene_size) if scene_size else None

    @property
    def mask_decoder(self) -> MaskDecoder:
        """The model's mask decoder."""
        return self._linked[0]

    def forward(
        self,
        images: Tensor,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        """The inference story.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_scenes: Not used, because the images determine the number.
            num_slots: Number of slots, K if None.
            temperature: Not used, because a posterior has none. A guide takes the same arguments as its model.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        with pyro.plate("scenes", len(images)):
            features = self.mask_encoder(images)  # [B, 256]
            loc, raw_scale, state = self.first_loc(features), self.first_raw_scale(features), None  # [B, L]
            drawn: list[Tensor] = []
            for k in range(num_slots):
                if k:
                    loc, raw_scale, state = self.mask_posterior(torch.cat([features, drawn[-1]], 1), state)
                drawn.append(pyro.sample(f"mask_slot_{k}", diagonal_normal(loc, genesis_posterior_scale(raw_scale))))
            log_masks = draw_log_masks(self.mask_decoder, torch.stack(drawn, 1), self.image_size)  # [B, K, 1, H, W]

            locs, raw_scales = self.component_encoder(images, log_masks)
            scales = genesis_posterior_scale(raw_scales)  # [B, K, C]
            components = [
                pyro.sample(f"component_slot_{k}", diagonal_normal(locs[:, k], scales[:, k])) for k in range(num_slots)
            ]
            if self.scene_posterior is not None:
                state = None
                for latents in zip(drawn, components, strict=True):
                    loc, raw_scale, state = self.scene_posterior(torch.cat(latents, 1), state)  # [B, S]
                pyro.sample("scene", diagonal_normal(loc, sri_scale(raw_scale)))
