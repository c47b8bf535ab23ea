"""Segregate, relate, imagine: the guide of SRI (Emami et al. 2023, section 4)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.distributions import Delta, Independent
from torch import Tensor

from pyro_sri.distributions import diagonal_normal, sri_raw, sri_scale
from pyro_sri.guides.segregation import Segregation, SegregationPair, auxiliary
from pyro_sri.matching import MATCHINGS, Matching, MatchOn, permute_slots, slot_distances
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import SceneEncoder, SlotPrior, SlotScales
from pyro_sri.programs import Program
from pyro_sri.system.choices import check_choice


class SRIGuide(Program):
    r"""Infers the scene variable and the ordered slots in three stages.

    1. Segregate: :math:`z^\pi \sim q(z^\pi \mid x)`, a randomly ordered, independent slot posterior with means
       :math:`\mu^\pi`. Later stages see it detached, so the segregation learns only from its own objective.
    2. Relate: :math:`s \sim q(s \mid z^\pi)` by permutation-invariant attention (equations 30, 31).
    3. Imagine: roll out the model's prior from s, :math:`\hat z_k \sim p(z_k \mid \hat z_{<k}, s)` (equation 6). Match
       each imagined slot to a segregated one, which gives the order :math:`\pi`. Then

       .. math:: z_k \sim q(z_k \mid s, x) = \mathcal{N}(\mu^\pi_{\pi(k)}, \sigma_k(s, \mu^\pi_{\pi(<k)})^2)
          \quad\text{(equation 7).}

    Sites, in the plate `scenes`: those of the segregation (`segregation_seeds`, `attention_masks`, `segregated_slots`
    for GENESIS-v2), `scene` [S], `imagined_slot_k` [D], `order` [K] (Delta of integers: position k of the sequence
    holds segregated slot order[k]), `slot_k` [D]. All but `scene` and `slot_k` are auxiliary and not scored, so that
    Pyro's own ELBOs are valid bounds. They never train the segregation, but `SRI_ELBO` does.

    Args:
        model: The scene model. The guide uses its slot prior for the rollout, without owning it.
        segregation: The segregation pair.
        num_layers: Number of relational attention blocks.
        scene_width: Their width. None means D, as published.
        matching: "greedy" (in rollout order, on the device), "hungarian" (optimal, on the host) or "identity" (slot k
            of the segregation is slot k of the sequence).
        match_on: Whether means or samples of imagined and segregated slots are compared.
        align: False uses the segregation's posterior, in its random order, as q(z | x), without a rollout (table 3b).
        end_to_end: Let gradients of L_SRI reach the segregation (SRI-SA*).
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On an unknown `matching` or `match_on`.
    """

    starts_small = ("scene_encoder", "slot_scales")
    _infer: Callable[..., Segregation] | None = None  # stands in for the segregation's

    def __init__(
        self,
        model: SceneModel,
        segregation: SegregationPair,
        *,
        num_layers: int = 3,
        scene_width: int | None = None,
        matching: Matching = "greedy",
        match_on: MatchOn = "means",
        align: bool = True,
        end_to_end: bool = False,
        name: str = "sri_guide",
    ) -> None:
        super().__init__(name, model.num_slots, model.image_size)
        check_choice(matching, Matching, "matching")
        check_choice(match_on, MatchOn, "match_on")
        prior = model.slot_prior
        slot_size, scene_size = prior.loc.out_features, model.scene_prior.size
        self.matching, self.match_on = matching, match_on
        self.align, self.end_to_end = align, end_to_end
        self.num_layers = num_layers
        self.has_scene = model.has_scene
        self._linked = (prior,)  # a tuple hides it from module registration: the model owns it
        self.segregation = segregation
        self.scene_encoder = SceneEncoder(slot_size, scene_size, num_layers, scene_width) if scene_size else None
        self.slot_scales = SlotScales(slot_size, scene_size, prior.lstm.hidden_size) if align else None

    @property
    def slot_prior(self) -> SlotPrior:
        """The scene model's p(z_k | z_<k, s)."""
        return self._linked[0]

    def start_scales_at(self, std: float) -> None:
        """Shifts the biases behind both slot posteriors' scales so that the untrained scales are about `std`.

        The default of about 0.9 drowns the untrained means in noise. With smaller scales, decoders learn from the means
        sooner.
        """
        with torch.no_grad():
            self.segregation.guide.start_scales_at(std)
            if self.slot_scales is not None:
                self.slot_scales.raw_scale.bias.fill_(sri_raw(std))

    @property
    def propose_scene(self) -> Callable[[Tensor], Independent] | None:
        """`scene_dist`, or None without a scene variable."""
        return self.scene_dist if self.has_scene else None

    def scene_dist(self, slots: Tensor) -> Independent:
        """q(s | z^pi): slots [B, K, D] -> a distribution over [B, S]."""
        assert self.scene_encoder is not None, "the model has no scene variable"
        loc, raw_scale = self.scene_encoder(slots)
        return diagonal_normal(loc, sri_scale(raw_scale))

    def imagine(self, scene: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
        """Rolls the prior out from the scene [B, S] and draws `imagined_slot_k`.

        Returns:
            The imagined slots' prior means and the slots, each [B, K, D].
        """
        loc, raw_scale, state = self.slot_prior.first(scene)  # [B, D]
        means: list[Tensor] = []
        slots: list[Tensor] = []
        for k in range(num_slots):
            if k > 0:
                loc, raw_scale, state = self.slot_prior.step(slots[-1], state)
            means.append(loc)
            slots.append(pyro.sample(f"imagined_slot_{k}", diagonal_normal(loc, sri_scale(raw_scale))))
        return torch.stack(means, 1), torch.stack(slots, 1)

    def align_slots(self, segregated: Segregation, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of q(z_k | s, x) in the order in which the prior imagines the slots.

        Draws `imagined_slot_k` and `order`.

        Args:
            segregated: The first stage.
            scene: [B, S].
        """
        with auxiliary():
            imagined = self.imagine(scene, segregated.means.shape[1])
            pairs = (imagined[0], segregated.means) if self.match_on == "means" else (imagined[1], segregated.slots)
            cost = slot_distances(*pairs)  # [B, K, K]
            order = pyro.sample("order", Delta(MATCHINGS[self.matching](cost), event_dim=1))  # [B, K]
        means = permute_slots(segregated.means, order)
        assert self.slot_scales is not None, "a guide without alignment has no scales of its own"
        return means, sri_scale(self.slot_scales(scene, means))

    def segregate(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        """The first stage, inside the caller's plate: images [B, 3, H, W] -> K slots in random order."""
        infer = self.segregation.guide.infer if self._infer is None else self._infer
        with auxiliary():
            return infer(images, self.num_slots if num_slots is None else num_slots)

    @contextmanager
    def segregated_by(self, infer: Callable[[Tensor, int], Segregation]) -> Iterator[None]:
        """Inside, a function stands in for the first stage, for example one that returns slots that are known.

        Args:
            infer: Called like `infer` of the segregation's guide, inside the plate `scenes`.

        Raises:
            ValueError: If a guide with its own `segregate` or `forward` never called the function.
        """
        called = []

        def stand_in(images: Tensor, num_slots: int) -> Segregation:
            called.append(num_slots)
            return infer(images, num_slots)

        self._infer = stand_in
        try:
            yield
        finally:
            self._infer = None
        if not called:
            raise ValueError(
                f"{type(self).__name__} cannot replace its first stage, as SRI_ELBO needs here: let its `segregate` "
                "and `forward` call those of SRIGuide"
            )

    def relate_and_imagine(self, segregated: Segregation) -> None:
        """The later stages, inside the caller's plate: draws s, and the slots in the order of the prior."""
        scene = segregated.slots.new_zeros(len(segregated.slots), 0)
        if self.has_scene:
            scene = pyro.sample("scene", self.scene_dist(segregated.slots))

        means, scales = self.align_slots(segregated, scene) if self.align else segregated[:2]  # [B, K, D]
        for k, (mean, scale) in enumerate(zip(means.unbind(1), scales.unbind(1), strict=True)):
            pyro.sample(f"slot_{k}", diagonal_normal(mean, scale))

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
        with pyro.plate("scenes", len(images)):
            segregated = self.segregate(images, num_slots)
            self.relate_and_imagine(segregated if self.end_to_end else segregated.detach())
