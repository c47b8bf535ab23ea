"""Finds the objective of a model and its guide."""

from pyro_sri.objectives.air import AIR_ELBO, EnumeratedAIR_ELBO
from pyro_sri.objectives.base import TermsELBO
from pyro_sri.objectives.emorl import EMORL_ELBO
from pyro_sri.objectives.slot_attention import SlotAttentionLoss
from pyro_sri.objectives.slots import SlotELBO
from pyro_sri.objectives.sri import SRI_ELBO
from pyro_sri.programs import Guide, Model, joined, record_of


def objective_of(model: Model, guide: Guide) -> TermsELBO:
    """The objective that a pair was built, loaded or trained with, or that of its system without controllers.

    Args:
        model: A model.
        guide: Its guide.
    """
    known = joined(guide)
    return known if isinstance(known, TermsELBO) else _objective_by_kind(model, guide)


def _objective_by_kind(model: Model, guide: Guide) -> TermsELBO:
    record = record_of(model)
    if hasattr(guide, "segregation"):
        return SRI_ELBO()
    if hasattr(guide, "refinement"):
        return EMORL_ELBO()
    if record.of("presence"):
        return EnumeratedAIR_ELBO() if getattr(guide, "baseline", None) is None else AIR_ELBO()
    return SlotELBO() if record.has_prior else SlotAttentionLoss()
