"""What docs/pyro.md shows runs, without a warning, and does what it says."""

import re
from pathlib import Path
from typing import Any

import pyro
import torch

PAGE = Path(__file__).parent.parent / "docs" / "pyro.md"


def test_the_page_runs() -> None:
    shown: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(code, shown)
    images = shown["images"]

    def kls(name: str, beta: float) -> torch.Tensor:
        shown["annealed_model"].beta = shown["annealed_guide"].beta = beta
        pyro.set_rng_seed(1)
        return shown["objective"].terms(shown["annealed_model"], shown["annealed_guide"], images)[name]

    for name in ("kl_scene", "kl_slots"):
        torch.testing.assert_close(kls(name, 0.1), 0.1 * kls(name, 1.0))
    torch.testing.assert_close(kls("nll", 0.1), kls("nll", 1.0))
    assert ((shown["labelled"]["other"] > 0) == shown["known"]).all()
    assert shown["labelled_model"].head.weight.grad is not None
    assert all(parameter.grad is None for parameter in shown["model"].decoder.parameters())
    assert shown["model"].slot_prior.loc.weight.grad.any()
    assert shown["objective"].geco.beta != 1
    losses = []
    for pair in (("model", "guide", "objective"), ("new_model", "new_guide", "new_objective")):
        model, guide, objective = map(shown.get, pair)
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        losses.append(objective.eval().loss(model, guide, images))
    assert losses[0] == losses[1]
    assert shown["bound"].shape == (4,)
    assert shown["log_weights"].shape == (4, 8)
    assert shown["fewer"].shape == shown["seen"].reconstruction.shape
    assert shown["others"].shape == shown["slots"].shape
    assert shown["mean_scene"].shape == (1, 3, 32, 32)
