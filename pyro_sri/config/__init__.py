"""Configurations of runs: one flat, frozen, checked dataclass per system."""

from pyro_sri.config.air import AIRConfig
from pyro_sri.config.emorl import EMORLConfig
from pyro_sri.config.files import from_yaml, systems, to_yaml, typed_fields, typed_value, with_fields
from pyro_sri.config.genesis import GenesisConfig
from pyro_sri.config.genesis_v2 import GenesisV2Config
from pyro_sri.config.recurrent import RecurrentConfig
from pyro_sri.config.run import FIELD_GROUPS, NOT_OPTIONS, RESUMABLE, Device, Precision, RunConfig, flag
from pyro_sri.config.slot_attention import SlotAttentionConfig
from pyro_sri.config.sri import SRIConfig
from pyro_sri.system.choices import nearest

__all__ = [
    "FIELD_GROUPS",
    "NOT_OPTIONS",
    "RESUMABLE",
    "AIRConfig",
    "Device",
    "EMORLConfig",
    "GenesisConfig",
    "GenesisV2Config",
    "Precision",
    "RecurrentConfig",
    "RunConfig",
    "SRIConfig",
    "SlotAttentionConfig",
    "flag",
    "from_yaml",
    "nearest",
    "systems",
    "to_yaml",
    "typed_fields",
    "typed_value",
    "with_fields",
]
