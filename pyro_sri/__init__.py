"""SRI (Segregate, Relate, Imagine) and its family of slot VAEs as Pyro programs."""

__version__ = "0.1.0"

from pathlib import Path
from typing import Any

__all__ = ["__version__", "load"]


def load(run: Path | str) -> Any:
    """Model and guide of a run, with its best weights, on the CPU, in evaluation mode.

    Example::

        model, guide = pyro_sri.load("runs/mine")
        objective = pyro_sri.load("runs/mine").objective

    Args:
        run: A run directory, or the name of a preset with bundled weights.

    Returns:
        A named pair `model`, `guide`, which also has its `objective` (`pyro_sri.runs.Pair`).

    Raises:
        pyro_sri.system.errors.UserError: If there is no such run, or its checkpoint is missing, damaged or does not
            fit.
    """
    from pyro_sri.runs import find_run  # importing the package stays fast

    return find_run(run).load()
