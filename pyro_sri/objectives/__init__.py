"""The objectives: named terms, computed from the traces of model and guide and weighted into a loss."""

from pyro_sri.objectives.air import AIR_ELBO, EnumeratedAIR_ELBO, PresenceAnnealing
from pyro_sri.objectives.base import Terms, TermsELBO
from pyro_sri.objectives.choice import objective_of
from pyro_sri.objectives.emorl import EMORL_ELBO
from pyro_sri.objectives.geco import GECO, EmorlGECO, GenesisGECO
from pyro_sri.objectives.mask_kl import MaskKL
from pyro_sri.objectives.slot_attention import SlotAttentionLoss
from pyro_sri.objectives.slots import SlotELBO
from pyro_sri.objectives.sri import SRI_ELBO

__all__ = [
    "AIR_ELBO",
    "EMORL_ELBO",
    "GECO",
    "SRI_ELBO",
    "EmorlGECO",
    "EnumeratedAIR_ELBO",
    "GenesisGECO",
    "MaskKL",
    "PresenceAnnealing",
    "SlotAttentionLoss",
    "SlotELBO",
    "Terms",
    "TermsELBO",
    "objective_of",
]
