"""The UNet's blocks on doubled maps never make them, and compute the same."""

import pytest
import torch
import torch.nn.functional as F

from pyro_sri.nn.unet import UpBlock


@pytest.mark.parametrize("side", [1, 4, 6])
def test_a_convolution_after_doubling_at_half_the_resolution(side: int) -> None:
    block = UpBlock(13, 16).double()
    below = torch.randn(2, 8, side, side, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 5, 2 * side, 2 * side, dtype=torch.float64, requires_grad=True)
    tensors = [below, skip, *block.parameters()]

    def gradients(output: torch.Tensor) -> list[torch.Tensor]:
        return [output, *torch.autograd.grad(output.sin().sum(), tensors)]

    doubled = torch.cat([F.interpolate(below, scale_factor=2, mode="nearest"), skip], dim=1)
    convolution, norm, relu = block
    expected = gradients(relu(norm(F.conv2d(doubled, convolution.weight, padding=1))))
    for actual, wanted in zip(gradients(block(below, skip)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)
