"""The generative half of EMORL, a hierarchical slot VAE (EfficientMORL, Emami et al. 2021, section 3)."""

from typing import Literal

import pyro
from pyro.distributions import Independent
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood, StandardNormal, diagonal_normal, sri_scale
from pyro_sri.models.image import batch_size, sample_image
from pyro_sri.nn import LayerPrior, SlotDecoderKind, slot_decoder
from pyro_sri.programs import Latents, Program, Record
from pyro_sri.system.choices import check_choice

HierarchicalPriorKind = Literal["rpp", "rev", "bu"]


class HierarchicalPrior(Program):
    r"""p(z_0 .. z_{L-1}): a chain over the layers in which each is conditioned on the one before, slot by slot.

    ======  ===========================================================================  =======================
    kind    the chain                                                                    refined posterior is for
    ======  ===========================================================================  =======================
    rev     reversed: :math:`z_{L-1} \sim \mathcal{N}(0, I)`, then
            :math:`z_l \sim p(z_l \mid z_{l+1})` down to layer 0                         layer L-1
    rpp     reversed prior++: the same chain                                             layer 0
    bu      bottom-up: :math:`z_0 \sim \mathcal{N}(0, I)`, then
            :math:`z_l \sim p(z_l \mid z_{l-1})` up to layer L-1                         layer 0
    ======  ===========================================================================  =======================

    A refined posterior is compared with the prior of the layer that it represents: :math:`\mathcal{N}(0, I)` with rev
    and bu, and the learned :math:`p(z_0 \mid z_1)` with rpp.

    Attributes:
        order: The layers in the order of the chain.
        refined_layer: The layer that a refined posterior represents.
    """

    def __init__(self, *, slot_size: int, num_layers: int, kind: HierarchicalPriorKind = "rpp") -> None:
        super().__init__()
        layers = range(num_layers)
        self.order = tuple(layers if kind == "bu" else reversed(layers))
        self.refined_layer = num_layers - 1 if kind == "rev" else 0
        self.first = StandardNormal(slot_size)
        self.network = LayerPrior(slot_size)

    def start(self, num_scenes: int, num_slots: int, temperature: float = 1.0) -> Independent:
        """Normal(0, T^2 I), over [B, K, D]."""
        return self.first(num_scenes, num_slots, temperature=temperature)

    def step(self, slots: Tensor, temperature: float = 1.0) -> Independent:
        """p(z_l | z_neighbour): slots of the layer before in the chain [B, K, D] -> a distribution over [B, K, D]."""
        loc, raw_scale = self.network(slots)
        return diagonal_normal(loc, temperature * sri_scale(raw_scale), 2)

    def forward(self, num_scenes: int, num_slots: int, temperature: float = 1.0) -> dict[int, Tensor]:
        """Draws `layer_l_slots` [K, D] of every layer, in the caller's plate: layer -> slots [B, K, D]."""
        drawn: dict[int, Tensor] = {}
        slots: Tensor | None = None
        for layer in self.order:
            prior = self.start(num_scenes, num_slots, temperature) if slots is None else self.step(slots, temperature)
            slots = drawn[layer] = pyro.sample(f"layer_{layer}_slots", prior)
        return drawn


class EMORLModel(Program):
    r"""A hierarchy of unordered slots and an image.

    .. math::
        z_0, .., z_{L-1} &\sim p(z_0, .., z_{L-1}) \quad\text{(see HierarchicalPrior)} \\
        x &\sim p(x \mid z_{L-1})

    Each z_l holds K exchangeable slots. The image shows the last layer, where bottom-up inference ends. With the
    reversed priors, this is the only layer whose marginal is N(0, I), and the layers below do not affect the image.
    Images of refined posteriors show the layer that these represent instead, which is layer 0 with "rpp" and "bu". So
    with these priors there are two ways to sample: from the last layer (the default, trained by inference without
    refinement) and with `decoded_layer=0` (trained by refined inference).

    Sites, in the plate `scenes` over images: `layer_l_slots` [K, D] in the order of the chain, `image` [3, H, W];
    deterministic `slot_rgb`, `slot_masks`, `reconstruction` as in the scene model.

    Args:
        image_size: Image side H = W; a multiple of 16 with the decoders "big" and "genesis_v2", otherwise any.
        num_slots: K.
        slot_size: D.
        num_layers: L, at least 1.
        prior: "rpp", "rev" or "bu".
        likelihood: p(x | z); unnormalised in the published runs.
        decoder: One of the published ones ("iodine", "big", "small"), or "genesis_v2", which costs much less.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On an unknown prior or decoder, no layer, or an image size that the decoder does not take.
    """

    starts_small = ("prior.network.loc", "prior.network.raw_scale", "decoder")

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int,
        slot_size: int = 64,
        num_layers: int = 3,
        prior: HierarchicalPriorKind = "rpp",
        likelihood: ImageLikelihood = ImageLikelihood(kind="gaussian", pixel_std=0.3, normalised=False),
        decoder: SlotDecoderKind = "iodine",
        name: str = "emorl_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        check_choice(prior, HierarchicalPriorKind, "prior")
        if num_layers < 1:
            raise ValueError(f"{num_layers} layers are too few: EMORL needs at least 1")
        self.slot_size = slot_size
        self.num_layers = num_layers
        self.likelihood = likelihood
        self.prior = HierarchicalPrior(slot_size=slot_size, num_layers=num_layers, kind=prior)
        self.decoder = slot_decoder(image_size, slot_size, decoder)
        inner = (Latents(f"layer_{layer}_slots", "kl_slots", "inner") for layer in range(num_layers - 1))
        self.record = Record((*inner, Latents(f"layer_{num_layers - 1}_slots", "kl_slots")))

    def forward(
        self,
        images: Tensor | None = None,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
        decoded_layer: int | None = None,
    ) -> Tensor:
        """The generative story.

        Args:
            images: Observed images [B, 3, H, W] in [0, 1]; None to sample them.
            num_scenes: Number of scenes to sample when there are no images.
            num_slots: Number of slots, K if None; any number works.
            temperature: Factor T on every prior standard deviation.
            decoded_layer: The layer that the image shows, L - 1 if None.

        Returns:
            Images [B, 3, H, W].
        """
        num_scenes = batch_size(images, num_scenes)
        with pyro.plate("scenes", num_scenes):
            layers = self.prior(num_scenes, self.num_slots if num_slots is None else num_slots, temperature)
            slots = layers[self.num_layers - 1 if decoded_layer is None else decoded_layer]  # [B, K, D]
            return sample_image(self.likelihood, self.decoder(slots), images)
