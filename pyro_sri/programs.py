"""The base of models and guides."""

from typing import Any

import pyro
from pyro.nn import PyroModule


class Program(PyroModule):
    """A `PyroModule` whose networks cost nothing to look up where Pyro's parameter store has no part.

    With `module_local_params` on, a `PyroModule` sends a message for each weight of a network whenever the network is
    looked up: 240 in a step of SRI, a third of its time on one small image. No answer is used, so none is sent.
    """

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("_modules", {}).get(name)
        if network is None or isinstance(network, PyroModule) or not pyro.settings.get("module_local_params"):
            return super().__getattr__(name)
        return network
