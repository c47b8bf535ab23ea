"""Configurations: what a run is, in one flat, frozen, checked dataclass per system."""

from pyro_sri.config.files import SYSTEMS, from_yaml, to_yaml
from pyro_sri.config.run import RESUMABLE, Device, RunConfig, flag, nearest
from pyro_sri.config.sri import SRIConfig

__all__ = ["RESUMABLE", "SYSTEMS", "Device", "RunConfig", "SRIConfig", "flag", "from_yaml", "nearest", "to_yaml"]
