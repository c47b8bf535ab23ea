"""The group normalisation that keeps channels last is PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from pyro_sri.nn import SlotDecoder, UNet
from pyro_sri.nn import group_norm as module
from pyro_sri.nn.group_norm import GroupNorm, channels_last_group_norm
from support.golden import assert_relative


@pytest.mark.parametrize("shape", [(2, 16, 4, 4), (2, 8, 1, 1), (3, 24, 5, 7)])
def test_it_is_pytorchs_with_its_gradients(shape: tuple[int, ...]) -> None:
    maps = (3 + torch.randn(shape, dtype=torch.float64)).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.randn(shape, dtype=torch.float64)
    ours, plain = channels_last_group_norm(maps, 8, weight, bias), F.group_norm(maps, 8, weight, bias)
    assert_relative(ours, plain, 1e-12)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad((maps_ * weights).sum(), [maps, weight, bias]) for maps_ in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        assert_relative(one, other, 1e-10)


@pytest.mark.parametrize("build", [lambda: SlotDecoder(32, 8), lambda: UNet(32, 8)])
def test_networks_take_it_on_gpus_alone(build: object, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build().double()  # type: ignore[operator]
    inputs = torch.randn(2, 3, 8) if isinstance(network, SlotDecoder) else torch.rand(2, 3, 32, 32)
    before = network(inputs.double())
    calls = []

    def noted(*args: object) -> torch.Tensor:
        calls.append(args)
        return channels_last_group_norm(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "channels_last_group_norm", noted)
    network(inputs.double())
    assert not calls
    monkeypatch.setattr(GroupNorm, "forward", _as_on_a_gpu)
    after = network(inputs.double())
    assert len(calls) == sum(isinstance(layer, GroupNorm) for layer in network.modules())
    for one, other in zip(*([out] if isinstance(out, torch.Tensor) else out for out in (after, before)), strict=True):
        assert_relative(one, other, 1e-9)


def _as_on_a_gpu(self: GroupNorm, maps: torch.Tensor) -> torch.Tensor:
    maps = maps.contiguous(memory_format=torch.channels_last)  # as cuDNN leaves them; in float64 CPUs do not
    return module.channels_last_group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)
