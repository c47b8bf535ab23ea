"""The encoding half of the Slot Attention auto-encoder (Locatello et al. 2020), also used by SRI-SA* to segregate."""

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor, nn

from pyro_sri.distributions import diagonal_normal, sri_scale
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.nn import InitialSlots, PixelFeatures, ResidualMLP, SlotAttention
from pyro_sri.programs import Program

MLP_UNITS = 128


class SlotAttentionGuide(Program):
    r"""Slots that start from random vectors and compete for the pixels a few times.

    .. math::
        z &\sim \mathcal{N}(\mu_{init}, \sigma_{init}^2) \\
        z &\leftarrow \mathrm{GRU}(\mathrm{Attention}(x, z), z), \quad z \leftarrow z + \mathrm{MLP}(z)
            \quad\text{(3 times)}

    Only the initial slots are random. With `learnt_slots`, this is the encoder of SRI-SA* (Emami et al. 2023, table 1).
    Every slot has its own initial distribution, so slots are not exchangeable and can learn an order. A linear map
    turns each slot into a posterior, :math:`q(z_k \mid x) = \mathcal{N}(\mu_k, \sigma_k^2)`. In SRI-SA* it has no
    objective of its own. It learns from SRI's objective, undetached, and slot k of the sequence is slot k of the
    encoder. (The paper does not describe a matching. Without one, the encoder learns the order, as the paper states.)

    Sites, in the plate `scenes`: auxiliary `initial_slots` [K, D] and `attention_masks` [K, 1, H, W] (Delta: the last
    round's); `segregated_slots` [K, D] (a Delta, or the posterior with `learnt_slots`).

    Args:
        image_size: Image side, any.
        num_slots: K.
        slot_size: D.
        num_iterations: Number of rounds of attention.
        learnt_slots: Learn each slot's initial distribution and posterior. K is then fixed.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On less than one round.
    """

    record = SlotAttentionModel.record

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        num_iterations: int = 3,
        learnt_slots: bool = False,
        name: str = "slot_attention_guide",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        if num_iterations < 1:
            raise ValueError(f"{num_iterations} rounds of attention are too few: use at least 1")
        self.num_iterations = num_iterations
        self.features = PixelFeatures(image_size)
        self.initial_slots = InitialSlots(slot_size, num_slots if learnt_slots else None)
        self.attention = SlotAttention(slot_size)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = ResidualMLP(slot_size, MLP_UNITS)
        self.posterior = nn.Linear(slot_size, 2 * slot_size) if learnt_slots else None

    def infer(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        """The slots, inside the caller's plate.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None.

        Raises:
            ValueError: On another number than K with `learnt_slots`.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        keys, values = self.attention.read(self.features(images))  # [B, P, D]
        loc, raw_scale = self.initial_slots(len(images), num_slots)
        with auxiliary():
            slots = pyro.sample("initial_slots", diagonal_normal(loc, sri_scale(raw_scale), 2))  # [B, K, D]
        for _ in range(self.num_iterations):
            updates, masks = self.attention(slots, keys, values)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = self.mlp(slots)
        with auxiliary():
            pyro.sample("attention_masks", Delta(masks.unflatten(2, (1, *images.shape[2:])), event_dim=4))
        if self.posterior is None:
            drawn = pyro.sample("segregated_slots", Delta(slots, event_dim=2))
            return Segregation(slots, torch.zeros_like(slots), drawn)
        means, raw_scales = self.posterior(slots).chunk(2, dim=-1)
        scales = sri_scale(raw_scales)
        return Segregation(means, scales, pyro.sample("segregated_slots", diagonal_normal(means, scales, 2)))

    def forward(
        self, images: Tensor, num_scenes: int | None = None, *, num_slots: int | None = None, temperature: float = 1.0
    ) -> None:
        """The inference story; arguments as the model's."""
        with pyro.plate("scenes", len(images)):
            self.infer(images, num_slots)
