"""Under autocast, networks compute in half precision, and densities, masks and KLs in float32."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_sri.nn.precision import HALF
from pyro_sri.objectives.mask_kl import mask_divergence
from pyro_sri.presets import PRESETS
from support.systems import uncovered


def parameters(dist: Distribution) -> Iterator[Tensor]:
    for value in vars(dist).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Distribution):
            yield from parameters(value)


@pytest.mark.parametrize("preset", [*uncovered(()), "sri_emorl-quick"])
def test_nothing_is_scored_in_half_precision(preset: str) -> None:
    config = PRESETS[preset].config.tiny()
    model, guide, elbo = config.build()
    half: set[torch.dtype] = set()
    for module in (*model.modules(), *guide.modules()):
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: half.add(output.dtype))
    images = torch.rand(2, 3, config.image_size, config.image_size)
    with torch.autocast("cpu", torch.bfloat16):
        traces = elbo.trace(model, guide, images)
        terms = elbo.read(traces)
    assert torch.bfloat16 in half  # autocast had something to do
    found: dict[str, Any] = {name: [term] for name, term in terms.items()}
    for trace in traces:
        for name, site in getattr(trace, "nodes", {}).items():
            if site["type"] == "sample" and name != "scenes":
                found[name] = [site["value"], *parameters(site["fn"])]
    assert not [name for name, tensors in found.items() if any(tensor.dtype in HALF for tensor in tensors)]


def test_the_mask_kl_of_rounded_masks() -> None:
    masks = [torch.randn(2, 4, 1, 64, 64).softmax(1).bfloat16() for _ in range(2)]
    exact = mask_divergence(*(mask.double() for mask in masks))
    torch.testing.assert_close(mask_divergence(*masks).double(), exact, rtol=1e-5, atol=0)
