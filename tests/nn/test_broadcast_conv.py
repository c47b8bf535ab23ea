"""The first convolution of a broadcast decoder: what nn.Conv2d computes from the copies, also in its gradients."""

import pytest
import torch
from torch import nn

from pyro_sri.nn.broadcast_conv import broadcast_conv


@pytest.mark.parametrize(("side", "padding"), [(3, 0), (5, 1), (5, 2), (1, 0)])
@pytest.mark.parametrize("further", [0, 2])
@pytest.mark.parametrize("size", [5, 12])
def test_it_equals_the_convolution_of_the_copies(side: int, padding: int, further: int, size: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4 + further, 3, side, padding=padding).double()
    vectors = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(4 + further, size, size, dtype=torch.float64, requires_grad=True)
    beside = torch.zeros(6, further, size, size, dtype=torch.float64)
    copies = torch.cat([vectors[:, :, None, None].expand(-1, -1, size, size), beside], dim=1)
    plain = convolution(copies + fixed)
    fast = broadcast_conv(convolution, vectors, fixed)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(plain)
    inputs = (vectors, fixed, *convolution.parameters())
    expected = torch.autograd.grad((weights * plain).sum(), inputs)
    found = torch.autograd.grad((weights * fast).sum(), inputs)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-11)
