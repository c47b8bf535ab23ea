import torch
from torch import nn

from pyro_sri.nn.transposed_conv import TransposedConv


def test_it_is_a_transposed_convolution() -> None:
    """Results and all gradients, in both memory formats."""
    shape = {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1, "dtype": torch.float64}
    ours, plain = TransposedConv(6, 8, **shape), nn.ConvTranspose2d(6, 8, **shape)
    plain.load_state_dict(ours.state_dict())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        inputs = torch.randn(3, 6, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
        weights = torch.randn(3, 8, 8, 10, dtype=torch.float64)
        results = []
        for layer in (ours, plain):
            x = inputs.clone().requires_grad_()
            y = layer(x)
            gradients = torch.autograd.grad((weights * y).sum(), (x, layer.weight, layer.bias))
            results.append((y, *gradients))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
