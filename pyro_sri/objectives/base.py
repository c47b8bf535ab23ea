"""What the objectives share: named terms, read off a run of guide and model, that are weighed into a loss."""

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
from pyro_sri.objectives.traces import run_against
from pyro_sri.programs import Guide, Model, adopt, check_range, join

Terms = dict[str, Tensor]


class Traces(NamedTuple):
    """One run of guide and model."""

    guide: Trace
    model: Trace


class TermsELBO(Trace_ELBO, nn.Module, ABC):
    """An ELBO made of named terms, whose weights live in buffers: an `ELBOModule` saves, moves and switches them.

    A system's objective says how guide and model are run, how the terms are read off, and how they are weighed.
    Usable with `pyro.infer.SVI` and as `elbo(model, guide)`. What Pyro scores counts, with its scale and mask: further
    observations and factors make a term `other`, at weight 1.

    Controllers move in training mode with gradients on, once per step of a torch optimiser that holds parameters of the
    pair, whatever the number of forward passes; `SVI.evaluate_loss` never moves them. With an optimiser of another kind
    call `advance` after its step. Without Pyro's validation nothing here waits for the device.

    Attributes:
        bound: Names of the terms (`nll` and KLs) whose sum is the negative ELBO in nats; terms that a system lacks are
            skipped. An objective that takes them from the model's record has none, and its own `kl`.
        mask_kl: Which KL between attention masks and decoded masks is part of the loss.
        step: The training step. A trainer sets it before every step, and schedules follow it in training mode.
    """

    bound: ClassVar[tuple[str, ...]] = ()
    step: int

    def __init__(self, mask_kl: MaskKL = "none") -> None:
        nn.Module.__init__(self)  # first: a plain super().__init__() never reaches it
        Trace_ELBO.__init__(self)
        self.step = 0
        self.mask_kl = check_mask_kl(mask_kl)

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """The loss of a pair as a torch module: its parameters are theirs; call it with images [B, 3, H, W]."""
        adopt(model)
        adopt(guide)
        join(guide, self)
        return Trace_ELBO.__call__(self, model, guide)

    @property
    def phase(self) -> Hashable:
        """The phase of the schedule that this step is in. Training steps of one phase do the same computation."""
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
        """The terms, each [B] in nats."""

    @abstractmethod
    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image), which controllers notice in training."""

    def terms(self, model: Model, guide: Guide, images: Tensor, *args: Any, **kwargs: Any) -> Terms:
        """The terms of the objective, each [B] in nats.

        Works under enclosing handlers: those that scale, mask or condition are honoured, as by Pyro's own ELBOs.

        Args:
            model: The model.
            guide: Its guide.
            images: [B, 3, H, W] in [0, 1].
            *args: Passed on to model and guide.
            **kwargs: Passed on to model and guide.

        Raises:
            UserError: If the images have another shape or, while Pyro's validation is on, values out of range.
        """
        if is_validation_enabled():
            check_range(model, images)
        if self.training and torch.is_grad_enabled():
            advance_after_step(self, model, guide)
        return self.read(self.trace(model, guide, images, *args, **kwargs))

    def advance(self) -> None:
        """Moves controllers and schedules by what they noticed since they last moved.

        Steps of torch's optimisers, Pyro's among them, do this by themselves.
        """
        for module in self.modules():
            if isinstance(module, PerStep):
                module.settle()

    def controllers(self) -> dict[str, GECO]:
        """The controllers of the KL weights, by the names of the weights in the log."""
        return {}

    def weights(self) -> dict[str, float]:
        """What GECO's terms weigh at this point: `beta` of the bound, 1 without a controller, and those of others."""
        return {"beta": 1.0} | {name: geco.weight.item() for name, geco in self.controllers().items()}

    def active(self, geco: GECO | None) -> GECO | None:
        """A controller; None while it warms up in training, which the plain ELBO does."""
        warming = geco is not None and self.training and self.step < geco.warm_start
        return None if warming else geco

    @property
    def warming(self) -> bool:
        """Whether some controller has not begun at this step."""
        return any(self.step < geco.warm_start for geco in self.controllers().values())

    def segregated(self, traces: Any) -> Segregation:
        """What SRI takes from one run of a segregation pair: its posterior of the slots, and the draw.

        The site `segregated_slots` unless an objective says otherwise.
        """
        site = traces.guide.nodes["segregated_slots"]
        return Segregation(*moments(site["fn"]), site["value"])

    def posterior(self, traces: Any, site: str) -> Distribution:
        """The final posterior of a latent site in one run."""
        return traces.guide.nodes[site]["fn"]

    def kl(self, terms: Terms) -> Tensor:
        """The terms of the bound except `nll`, [B] in nats."""
        kls = [terms[name] for name in self.bound if name != "nll" and name in terms]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def negative_elbo(self, terms: Terms) -> Tensor:
        """-ELBO, [B] in nats, of everything that is observed."""
        return terms["nll"] + self.kl(terms) + terms.get("other", 0.0)

    def weigh(self, geco: GECO | None, nll: Tensor, kl: Tensor, mask_kl: Tensor | float = 0.0) -> Tensor:
        """NLL and KL as their controller weighs them, which notices the NLL in training. Without one, their sum.

        The mask KL has the same weight as the KL (Engelcke et al. 2021). If it only trains the decoder, the weight is
        1, as the decoder should follow the attention from the start, when the weight of the KL is small.
        """
        followed = self.mask_kl == "decoder"
        kl = kl if followed else kl + mask_kl
        geco = self.active(geco)
        loss = nll + kl if geco is None else geco(nll, kl)
        if geco is not None and self.training and torch.is_grad_enabled():
            geco.notice(nll)
        return loss + mask_kl if followed else loss

    def differentiable_loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats per image: what an `ELBOModule` returns."""
        return self.objective(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number: what `SVI.evaluate_loss` returns."""
        _check_store(model, guide)
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Model, guide: Guide, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, with gradients left in the parameters: what `SVI.step` calls."""
        _check_store(model, guide)
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:  # not where all is masked
            loss.backward()
        return loss.item()


def _check_store(*programs: Any) -> None:
    """Warns where Pyro's parameter store, whose tensors SVI moves, has others under the names of these programs."""
    if pyro.settings.get("module_local_params"):
        return
    modules = [program for program in map(unwrap, programs) if isinstance(program, PyroModule) and program._pyro_name]
    if roots := [f"'{module._pyro_name}'" for module in modules if _has_other_tensors(module)]:
        warnings.warn(
            f"Pyro's parameter store has other tensors under {' and '.join(roots)} than these programs: they are not "
            "their weights, and SVI does not train them. Save and load with state_dict; call pyro.clear_param_store() "
            "before you train another instance, or give it another name=",
            stacklevel=4,
        )


def _has_other_tensors(module: PyroModule) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    stored = pyro.get_param_store()._params.items()
    return any(name.startswith(f"{module._pyro_name}.") and id(tensor) not in own for name, tensor in stored)
