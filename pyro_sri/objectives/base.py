"""The base class of objectives: named terms, computed from a run of guide and model, and weighted into a loss."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_sri.distributions import moments
from pyro_sri.guides.segregation import Segregation
from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, check_mask_kl
from pyro_sri.objectives.stepping import PerStep, advance_after_step
from pyro_sri.objectives.traces import Site, check_gradients, is_plain, log_prob, run_against, weighed
from pyro_sri.programs import Guide, Model, adopt, check_range, join

Terms = dict[str, Tensor]


class Traces(NamedTuple):
    """One run of guide and model."""

    guide: Trace
    model: Trace


class TermsELBO(Trace_ELBO, nn.Module, ABC):
    """An ELBO that consists of named terms. Their weights are buffers, so an `ELBOModule` saves and moves them.

    An objective defines how guide and model are run, how the terms are computed, and how they are weighted. It works
    with `pyro.infer.SVI` and as `elbo(model, guide)`. Everything that Pyro scores counts, with its scale and mask.
    Additional observations and factors form a term `other` with weight 1.

    Controllers are updated in training mode with gradients enabled, once per step of a torch optimiser that has
    parameters of the pair, regardless of the number of forward passes. The same step is counted in `step`.
    `SVI.evaluate_loss` never updates anything. With another kind of optimiser, call `advance` after its step. Without
    Pyro's validation, nothing here waits for the device.

    Attributes:
        bound: Names of the terms (`nll` and KLs) whose sum is the negative ELBO in nats. Terms that a system does not
            have are skipped. An objective that takes its terms from the model's record leaves this empty and
            overrides `kl`.
        mask_kl: Which KL between attention masks and decoded masks is part of the loss.
        step: The number of training steps so far. Schedules use it in training mode. It is not part of the state, so
            set it to continue a training.
    """

    bound: ClassVar[tuple[str, ...]] = ()
    step: int
    _stepping = False  # whether a forward pass of training followed the last update

    def __init__(self, mask_kl: MaskKL = "none") -> None:
        nn.Module.__init__(self)  # first: a plain super().__init__() never reaches it
        Trace_ELBO.__init__(self)
        self.step = 0
        self.mask_kl = check_mask_kl(mask_kl)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """The loss of a pair as a torch module with the pair's parameters. Call it with images [B, 3, H, W]."""
        adopt(model)
        adopt(guide)
        join(guide, self)
        return Trace_ELBO.__call__(self, model, guide)

    @property
    def learning(self) -> bool:
        """Whether forward passes are part of training: in training mode, with gradients."""
        return self.training and torch.is_grad_enabled()

    @property
    def phase(self) -> Hashable:
        """The phase of the schedule at this step. All training steps of a phase do the same computation."""
        return None

    def trace(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the guide on images [B, 3, H, W], and the model against it.

        Returns:
            `Traces`, or another named tuple with at least `guide` and `model`.
        """
        guide_trace = poutine.trace(guide).get_trace(images, *args, **kwargs)
        return Traces(guide_trace, run_against(model, guide_trace, images, *args, **kwargs))

    @abstractmethod
    def read(self, traces: Any) -> Terms:
        """Computes the terms from traces, each [B] in nats."""

    @abstractmethod
    def objective(self, terms: Terms) -> Tensor:
        """Combines the batch means of the terms into a loss in nats per image. In training, controllers record it."""

    def terms(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> Terms:
        """Runs guide and model, and returns the terms of the objective, each [B] in nats.

        Enclosing handlers that scale, mask or condition have the same effect as with Pyro's own ELBOs.

        Args:
            model: The model.
            guide: Its guide.
            images: [B, 3, H, W] in [0, 1].
            *args: Passed on to model and guide.
            **kwargs: Passed on to model and guide.

        Raises:
            UserError: If the images have the wrong shape or, if Pyro's validation is enabled, values out of range.
        """
        if is_validation_enabled():
            check_range(model, images)
        if self.learning:
            self._stepping = True
            advance_after_step(self, model, guide)
        traces = self.trace(model, guide, images, *args, **kwargs)
        if self.learning:
            for program in (traces.model, getattr(traces, "segregation", None)):
                if program is not None:
                    check_gradients(traces.guide, program, self.has_gradient)
        return self.read(traces)

    def has_gradient(self, latent: str) -> bool:
        """Whether the objective has a gradient of its own for a latent that is not reparameterised."""
        return False

    def advance(self) -> None:
        """Updates controllers and schedules with everything recorded since the last update, and counts a step.

        Steps of torch's optimisers, including Pyro's, do this automatically. Without a forward pass since the last
        update, this does nothing.
        """
        self.step += self._stepping
        self._stepping = False
        for module in self.modules():
            if isinstance(module, PerStep):
                module.settle()

    def controllers(self) -> dict[str, GECO]:
        """The controllers of the KL weights, by the name of the weight in the log."""
        return {}

    def weights(self) -> dict[str, float]:
        """The current weights: `beta` for the bound (1 without a controller), and those of other controllers."""
        return {"beta": 1.0} | {name: geco.weight.item() for name, geco in self.controllers().items()}

    def active(self, geco: GECO | None) -> GECO | None:
        """The controller, or None during its warm start in training, which uses the plain ELBO."""
        warming = geco is not None and self.training and self.step < geco.warm_start
        return None if warming else geco

    @property
    def warming(self) -> bool:
        """Whether some controller is still in its warm start at this step."""
        return any(self.step < geco.warm_start for geco in self.controllers().values())

    def segregated(self, traces: Any) -> Segregation:
        """The posterior of the slots and the draw that SRI uses from a run of a segregation pair.

        By default, this is the site `segregated_slots`.
        """
        site = traces.guide.nodes["segregated_slots"]
        return Segregation(*moments(site["fn"]), site["value"])

    def posterior(self, traces: Any, site: str) -> Distribution:
        """The final posterior of a latent site in a run."""
        return traces.guide.nodes[site]["fn"]

    def kl(self, terms: Terms) -> Tensor:
        """The terms of the bound except `nll`, [B] in nats."""
        kls = [terms[name] for name in self.bound if name != "nll" and name in terms]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def negative_elbo(self, terms: Terms) -> Tensor:
        """-ELBO, [B] in nats, of everything that is observed."""
        return terms["nll"] + self.kl(terms) + terms.get("other", 0.0)

    def weigh(
        self,
        geco: GECO | None,
        nll: Tensor,
        kl: Tensor,
        mask_kl: Tensor | float = 0.0,
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Weights NLL and KL by the controller, which records the NLL in training. Without one, returns the sum.

        The mask KL has the same weight as the KL (Engelcke et al. 2021). If it only trains the decoder, it has the
        weight of the NLL, because the decoder should follow the attention from the start, when the KL weighs little.

        Args:
            geco: The controller, or None.
            nll: Batch mean in nats per image.
            kl: Batch mean in nats per image.
            mask_kl: Batch mean in nats per image.
            seen: What the controller records instead of the NLL (see `seen_in`), or None.
        """
        followed = self.mask_kl == "decoder"
        kl = kl if followed else kl + mask_kl
        geco = self.active(geco)
        loss = nll + kl if geco is None else geco(nll, kl)
        self.record(geco, nll, seen)
        if not followed:
            return loss
        return loss + (mask_kl if geco is None else geco.nll_weight * mask_kl)

    def record(self, geco: GECO | None, nll: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> None:
        """In training, lets a controller record the batch mean of the NLL or, if given, what it sees instead."""
        if geco is not None and self.learning:
            geco.notice(*((nll,) if seen is None else seen))

    def differentiable_loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor in nats per image, as returned by an `ELBOModule`."""
        return self.objective(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, as returned by `SVI.evaluate_loss`."""
        _check_store(model, guide)
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, with gradients stored in the parameters. `SVI.step` calls this."""
        _check_store(model, guide)
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:  # false if everything is masked
            loss.backward()
        return loss.item()


def seen_terms(geco: GECO | None, image: Site, prefix: str = "") -> Terms:
    """What a controller sees of an image that is scaled or masked. Its goal is for whole images.

    Args:
        geco: The controller of the NLL, or None.
        image: The model's site `image`.
        prefix: Prefix of the names.

    Returns:
        `seen` [B], which is 0 for masked images and otherwise 1, and `seen_nll` [B], their NLL without weights in nats.
        Empty without a controller, or if there is neither scale nor mask. They are terms in order to reach
        `TermsELBO.objective`, but no part of the loss.
    """
    if geco is None or is_plain(image):
        return {}
    with torch.no_grad():
        nll = -log_prob(image)
        seen = weighed(torch.ones_like(nll), image) != 0
        return {f"{prefix}seen": seen.to(nll), f"{prefix}seen_nll": torch.where(seen, nll, 0.0)}


def seen_in(mean: Terms, prefix: str = "") -> tuple[Tensor, Tensor] | None:
    """The batch means of `seen_nll` and `seen`, as `PerStep.notice` takes them. None if they are not there."""
    return (mean[f"{prefix}seen_nll"], mean[f"{prefix}seen"]) if f"{prefix}seen" in mean else None


def _check_store(*programs: Any) -> None:
    """Warns if Pyro's parameter store, which SVI trains, has other tensors under the names of these programs."""
    if pyro.settings.get("module_local_params"):
        return
    modules = [program for program in map(unwrap, programs) if isinstance(program, PyroModule) and program._pyro_name]
    if roots := [f"'{module._pyro_name}'" for module in modules if _has_other_tensors(module)]:
        warnings.warn(
            f"Pyro's parameter store has other tensors under {' and '.join(roots)} than the weights of these programs, "
            "so SVI does not train them. Save and load with state_dict. Before you train another instance, call "
            "pyro.clear_param_store() or give the instance another name=",
            stacklevel=4,
        )


def _has_other_tensors(module: PyroModule) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    stored = pyro.get_param_store()._params.items()
    return any(name.startswith(f"{module._pyro_name}.") and id(tensor) not in own for name, tensor in stored)
