"""How GENESIS-v2 infers slots (Engelcke et al. 2021, section 3): for the segregation pair, and on its own."""

import pyro
import torch
from pyro.distributions import Delta, Uniform
from torch import Tensor

from pyro_sri.distributions import diagonal_normal, genesis_posterior_raw, genesis_posterior_scale
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel, IndependentSlotModel
from pyro_sri.nn import Clustering, ConvBlock, InstanceColours, SlotHead, StickBreaking, UNet, stop_early
from pyro_sri.programs import Program

MIN_MASK_MASS = 20.0  # pixels; the authors' clustering stops at the first mask with less mass


class GenesisV2Guide(Program):
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
        colours: How the instance colours start, whether they are learned, and their kernel.
        coordinates: Give the slot head each pixel's coordinates. The published networks do not.
        name: Root of the parameters' names in Pyro's store.
    """

    record = IndependentSlotModel.record

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        colours: InstanceColours = InstanceColours(),
        coordinates: bool = False,
        name: str = "genesis_v2_guide",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        self.encoder = UNet(image_size, slot_size)
        self.segmentation_head = ConvBlock(slot_size, slot_size)
        self.learns_masks = colours.learn
        self.stick_breaking = StickBreaking(slot_size, image_size, num_slots, colours)
        self.slot_head = SlotHead(slot_size, slot_size, image_size, coordinates)

    def start_scales_at(self, std: float) -> None:
        """Shifts the bias behind the slot posteriors' scales so that the untrained scales are about `std`.

        The default of about 0.9 drowns the untrained means in noise. With smaller scales, decoders learn from the means
        sooner.
        """
        last = self.slot_head.slot_mlp[-1]
        assert isinstance(last, torch.nn.Linear)
        with torch.no_grad():
            last.bias[last.out_features // 2 :] = genesis_posterior_raw(std)

    def cluster(self, features: Tensor, images: Tensor, seeds: Tensor, num_slots: int | None = None) -> Clustering:
        """Clusters pixels by the UNet's features [B, F, H, W] of the images; scores [B, H, W] pick the seeds."""
        num_slots = self.num_slots if num_slots is None else num_slots
        with torch.set_grad_enabled(self.learns_masks and torch.is_grad_enabled()):
            return self.stick_breaking(self.segmentation_head(features), images, seeds, num_slots)

    def infer_moments(self, images: Tensor, num_slots: int | None = None) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the slots, each [B, K, D]; draws the masks, inside the caller's plate.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None.
        """
        features = self.encoder(images)  # [B, F, H, W]
        with auxiliary():
            scores = Uniform(images.new_zeros(()), images.new_ones(())).expand(images[:, 0].shape).to_event(2)
            seeds = pyro.sample("segregation_seeds", scores)  # [B, H, W]
            log_masks = self.cluster(features, images, seeds, num_slots).log_masks
            masks = pyro.sample("attention_masks", Delta(log_masks.exp(), event_dim=4))  # [B, K, 1, H, W]
        means, raw_scales = self.slot_head(features, masks)
        return means, genesis_posterior_scale(raw_scales)

    def infer(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        """q(z^pi | x) and one draw, inside the caller's plate.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None.
        """
        means, scales = self.infer_moments(images, num_slots)
        slots = pyro.sample("segregated_slots", diagonal_normal(means, scales, 2))
        return Segregation(means, scales, slots)

    @torch.no_grad()
    def count_slots(self, images: Tensor, seeds: Tensor, min_mass: float = MIN_MASK_MASS) -> Tensor:
        """How many slots each image needs if its clustering stops at the first mask that is too light.

        Run images that need n slots together with `num_slots=n`, under
        `poutine.condition(data={"segregation_seeds": seeds})`. This gives them the masks of the stopped clustering.

        Args:
            images: [B, 3, H, W] in [0, 1].
            seeds: The scores that pick the seeds [B, H, W] in [0, 1).
            min_mass: Smallest allowed sum of a mask over pixels.

        Returns:
            Integers [B] from 1 to K.
        """
        return stop_early(self.cluster(self.encoder(images), images, seeds), min_mass)[1]

    def forward(
        self, images: Tensor, num_scenes: int | None = None, *, num_slots: int | None = None, temperature: float = 1.0
    ) -> None:
        """The inference story for the segregation model on its own; arguments as the model's."""
        with pyro.plate("scenes", len(images)):
            self.infer(images, num_slots)


class GenesisV2SlotGuide(GenesisV2Guide):
    r"""The guide of GENESIS-v2 on its own: one slot for each mask, in the random order of the masks.

    .. math::
        q(z_{1:K} \mid x) = \mathbb{E}_u \textstyle\prod_k \mathcal{N}(z_k;\ \mu_k, \sigma_k^2), \quad
            (\mu_k, \sigma_k) = \mathrm{Head}(x, m_k), \quad m_{1:K} = \mathrm{StickBreaking}(\mathrm{UNet}(x), u)

    Sites, in the plate `scenes`: auxiliary `segregation_seeds` [H, W] and `attention_masks` [K, 1, H, W] (Delta);
    `slot_0` .. `slot_{K-1}` [D]. Arguments as those of `GenesisV2Guide`.
    """

    record = AutoregressiveSlotModel.record

    def forward(
        self, images: Tensor, num_scenes: int | None = None, *, num_slots: int | None = None, temperature: float = 1.0
    ) -> None:
        """The inference story. It takes the model's arguments, but uses only `images` and `num_slots`."""
        with pyro.plate("scenes", len(images)):
            means, scales = self.infer_moments(images, num_slots)
            for k, (mean, scale) in enumerate(zip(means.unbind(1), scales.unbind(1), strict=True)):
                pyro.sample(f"slot_{k}", diagonal_normal(mean, scale))
