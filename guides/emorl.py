"""The inference half of EMORL: bottom-up slot attention, then refinement (Emami et al. 2021, section 3)."""

from typing import NamedTuple

import pyro
import torch
from pyro.distributions import Delta, Independent
from torch import Tensor

from pyro_sri.distributions import diagonal_normal, sri_raw, sri_scale
from pyro_sri.guides.segregation import Segregation, auxiliary
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.nn import (
    DualGRU,
    InitialSlots,
    JointGRU,
    PixelFeaturesKind,
    RefinementNetwork,
    ResidualMLP,
    SlotAttention,
    pixel_features,
)
from pyro_sri.programs import Program


class SlotPosterior(NamedTuple):
    """lambda: the parameters of a slot posterior, each [B, K, D]."""

    loc: Tensor
    raw_scale: Tensor

    @property
    def dist(self) -> Independent:
        """q(z; lambda), over [B, K, D]."""
        return diagonal_normal(self.loc, sri_scale(self.raw_scale), 2)


class Refinement(Program):
    r"""One step of iterative amortised inference: the gradient of the loss determines how to change the posterior.

    .. math:: \lambda_i = \lambda_{i-1} + f(\lambda_{i-1}, \nabla_{\lambda_{i-1}} L_{i-1}, h_{i-1})

    Its site `refined_slots_i` [K, D], i = 1 .. I, is in the caller's plate and auxiliary.
    """

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.network = RefinementNetwork(slot_size)

    def forward(
        self, step: int, posterior: SlotPosterior, gradients: tuple[Tensor, Tensor], state: Tensor | None
    ) -> tuple[SlotPosterior, Tensor]:
        """Refines a posterior and draws from it.

        Args:
            step: i, from 1.
            posterior: lambda_{i-1}.
            gradients: Gradients of the loss with respect to its two parts.
            state: Memory of earlier steps [B, K, D]; None in the first step.

        Returns:
            lambda_i and the next memory.
        """
        loc_change, raw_change, state = self.network(*posterior, gradients, state)
        posterior = SlotPosterior(posterior.loc + loc_change, posterior.raw_scale + raw_change)
        with auxiliary():
            pyro.sample(f"refined_slots_{step}", posterior.dist)
        return posterior, state


class EMORLGuide(Program):
    r"""Infers slots layer by layer. In each layer, the slots from the layer below compete for pixels and are updated.

    .. math::
        z &\sim \mathcal{N}(\mu_{init}, \sigma_{init}^2) \quad\text{(the same for all slots)} \\
        \lambda_l &= \mathrm{GRU}(\mathrm{Attention}(x, z_{l-1}), \lambda_{l-1}), \quad
            \lambda_l \leftarrow \lambda_l + \mathrm{MLP}(\lambda_l) \\
        z_l &\sim q(z_l \mid z_{l-1}, x) = \mathcal{N}(z_l; \lambda_l), \quad l = 0 .. L-1

    All layers share their weights. The refinement that follows needs the gradient of the objective, so `EMORL_ELBO`
    carries it out with the network that belongs to this guide. Pyro's own ELBOs do not refine. (TraceMeanField_ELBO
    warns about reversed priors, which draw the layers in the opposite order. Its value is still a bound.)

    Sites, in the plate `scenes`: auxiliary `initial_slots` [K, D]; `layer_l_slots` [K, D]; auxiliary `attention_masks`
    [K, 1, H, W] (Delta: the last layer's) and `prior_draw_l` [K, D], a fresh draw of every layer that another layer's
    prior is conditioned on; from `EMORL_ELBO` also auxiliary `refined_slots_i` [K, D].

    Args:
        model: The model that it belongs to. The guide keeps no part of it.
        dual_gru: Separate GRU cells for mean and raw scale, as published. False uses one cell for both.
        features: What slots attend to: the published "convolutions", or "picture" (see PictureFeatures), which costs
            less and separates simple images sooner.
        refinement_steps: I, the number of refinement steps of `EMORL_ELBO`. The attribute may be changed at any time.
            The published runs train with 3 and later 1, and test with 0.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On a negative number of refinement steps, or unknown features.
    """

    starts_small = (
        *("features", "attention", "loc_mlp", "raw_scale_mlp"),
        *("refinement.network.loc", "refinement.network.raw_scale"),
    )

    def __init__(
        self,
        model: EMORLModel,
        *,
        dual_gru: bool = True,
        features: PixelFeaturesKind = "convolutions",
        refinement_steps: int = 3,
        name: str = "emorl_guide",
    ) -> None:
        super().__init__(name, model.num_slots, model.image_size)
        if refinement_steps < 0:
            raise ValueError(f"refinement_steps is {refinement_steps}: it must be 0 or more")
        self.record = model.record
        slot_size = model.slot_size
        self.num_layers = model.num_layers
        self.fresh_layers = model.prior.order[:-1]
        self.refinement_steps = refinement_steps
        self.features = pixel_features(model.image_size, features)
        self.initial_slots = InitialSlots(slot_size)
        self.attention = SlotAttention(slot_size)
        self.gru = DualGRU(slot_size) if dual_gru else JointGRU(slot_size)
        self.loc_mlp = ResidualMLP(slot_size, 2 * slot_size)
        self.raw_scale_mlp = ResidualMLP(slot_size, 2 * slot_size)
        self.refinement = Refinement(slot_size)

    def start_scales_at(self, std: float) -> None:
        """Sets the bias behind the posteriors' scales so that the untrained scales of the first layer are about `std`.

        Those of later layers are smaller, since each layer passes its scales on. The default of about 0.9 drowns the
        untrained means in noise. With smaller scales, decoders learn from the means sooner.
        """
        last = self.raw_scale_mlp.mlp[-1]
        assert isinstance(last, torch.nn.Linear)
        with torch.no_grad():
            last.bias.fill_(sri_raw(std))

    def bottom_up(self, images: Tensor, num_slots: int | None = None) -> tuple[list[SlotPosterior], Tensor]:
        """Draws the slots of every layer, in the caller's plate.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None; any number works.

        Returns:
            lambda_0 .. lambda_{L-1}, and the last layer's draw [B, K, D].
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        keys, values = self.attention.read(self.features(images))  # [B, P, D]
        posterior = SlotPosterior(*self.initial_slots(len(images), num_slots))
        posteriors = []
        with auxiliary():
            slots = pyro.sample("initial_slots", posterior.dist)  # [B, K, D]
        for layer in range(self.num_layers):
            updates, masks = self.attention(slots, keys, values)
            loc, raw_scale = self.gru(updates, *posterior)
            posterior = SlotPosterior(self.loc_mlp(loc), self.raw_scale_mlp(raw_scale))
            slots = pyro.sample(f"layer_{layer}_slots", posterior.dist)
            posteriors.append(posterior)
        with auxiliary():
            masks = masks.unflatten(2, (1, *images.shape[2:]))
            pyro.sample("attention_masks", Delta(masks, event_dim=4))  # [B, K, 1, H, W]
        return posteriors, slots

    def draw_for_priors(self, posteriors: list[SlotPosterior]) -> None:
        """Fresh draws of the layers that another layer's prior is conditioned on."""
        with auxiliary():
            for layer in self.fresh_layers:
                pyro.sample(f"prior_draw_{layer}", posteriors[layer].dist)

    def infer(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        """q(z | x) of the last layer and one draw, inside the caller's plate, without refinement, as SRI needs it.

        The draw is also the site `segregated_slots` [K, D] (a Delta). The draws are the same as in `forward`, in the
        same order.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: Number of slots, K if None.
        """
        posteriors, slots = self.bottom_up(images, num_slots)
        self.draw_for_priors(posteriors)
        with auxiliary():
            pyro.sample("segregated_slots", Delta(slots, event_dim=2))
        return Segregation(posteriors[-1].loc, sri_scale(posteriors[-1].raw_scale), slots)

    def forward(
        self, images: Tensor, num_scenes: int | None = None, *, num_slots: int | None = None, temperature: float = 1.0
    ) -> SlotPosterior:
        """The inference story up to the last layer; arguments as the model's.

        Returns:
            lambda_{L-1}, from which refinement starts.
        """
        with pyro.plate("scenes", len(images)):
            posteriors, _ = self.bottom_up(images, num_slots)
            self.draw_for_priors(posteriors)
        return posteriors[-1]
