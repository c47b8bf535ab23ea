"""The authors' published weights, read into our models and guides."""

from pyro_sri.official.emorl import emorl_parameter_name, load_emorl, load_emorl_geco
from pyro_sri.official.genesis import genesis_parameter_name, load_genesis
from pyro_sri.official.genesis_v2 import genesis_v2_parameter_name, load_genesis_v2
from pyro_sri.official.slot_attention import load_slot_attention, slot_attention_parameter_name
from pyro_sri.official.sri import load_sri, sri_parameter_name

__all__ = [
    "emorl_parameter_name",
    "genesis_parameter_name",
    "genesis_v2_parameter_name",
    "load_emorl",
    "load_emorl_geco",
    "load_genesis",
    "load_genesis_v2",
    "load_slot_attention",
    "load_sri",
    "slot_attention_parameter_name",
    "sri_parameter_name",
]
