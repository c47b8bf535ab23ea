"""The inference half of the segregation pair: GENESIS-v2 (Engelcke et al. 2021, section 3)."""

import pyro
from pyro.distributions import Delta, Uniform
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sri.distributions import diagonal_normal, genesis_posterior_scale
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.nn import Kernel, SlotHead, StickBreaking, UNet
from pyro_sri.nn.unet import ConvBlock


class GenesisV2Guide(PyroModule):
    r"""Instance colouring: cluster pixels into masks, pool features with each mask, one slot posterior per mask.

    .. math::
        u &\sim \mathcal{U}(0, 1)^{H \times W} \quad\text{(picks the seeds)} \\
        m_{1:K} &= \mathrm{StickBreaking}(\mathrm{UNet}(x), u) \\
        z^\pi_k &\sim \mathcal{N}(\mu_k, \sigma_k^2), \quad (\mu_k, \sigma_k) = \mathrm{Head}(x, m_k)

    Sites, in the plate `scenes`: auxiliary `segregation_seeds` [H, W] and `attention_masks` [K, 1, H, W] (Delta);
    `segregated_slots` [K, D].

    Args:
        image_size: Image side, one of 32, 64, 96, 128.
        num_slots: K.
        slot_size: D and the features of the UNet, a multiple of 8, at most 64.
        kernel: Kernel of the clustering.
        semiconv: Semi-convolutional pixel embeddings.
        gate_init: Start of the embeddings' gate.
        coordinates: Show the slot head where each pixel is; the published networks do not.
        name: Root of the parameters' names in Pyro's store.
    """

    @pyro.settings.context(module_local_params=True)
    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        kernel: Kernel = "gaussian",
        semiconv: bool = True,
        gate_init: float = 0.0,
        coordinates: bool = False,
        name: str = "genesis_v2_guide",
    ) -> None:
        super().__init__(name)
        self.num_slots = num_slots
        self.encoder = UNet(image_size, slot_size)
        self.segmentation_head = ConvBlock(slot_size, slot_size)
        self.stick_breaking = StickBreaking(slot_size, image_size, num_slots, kernel, semiconv, gate_init)
        self.slot_head = SlotHead(slot_size, slot_size, image_size, coordinates)

    def infer(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        """q(z^pi | x) and one draw, inside the caller's plate.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        features = self.encoder(images)  # [B, F, H, W]
        with auxiliary():
            scores = Uniform(images.new_zeros(()), images.new_ones(())).expand(images[:, 0].shape).to_event(2)
            uniforms = pyro.sample("segregation_seeds", scores)  # [B, H, W]
            clusters = self.stick_breaking(self.segmentation_head(features), uniforms, num_slots)
            masks = pyro.sample("attention_masks", Delta(clusters.log_masks.exp(), event_dim=4))  # [B, K, 1, H, W]
        means, raw_scales = self.slot_head(features, masks)  # [B, K, D]
        slots = pyro.sample("segregated_slots", diagonal_normal(means, genesis_posterior_scale(raw_scales), 2))
        return Segregation(means, slots)

    def forward(
        self, images: Tensor, num_scenes: int | None = None, *, num_slots: int | None = None, temperature: float = 1.0
    ) -> None:
        """The inference story for the segregation model on its own; arguments as the model's."""
        with pyro.plate("scenes", len(images)):
            self.infer(images, num_slots)
