"""GENESIS' networks: shapes, masks, and what batch normalisation sees."""

import pytest
import torch
from torch import nn

from pyro_sri.nn import (
    GENESIS_IMAGE_SIZES,
    ComponentDecoder,
    ComponentEncoder,
    GatedConv,
    GaussianLSTM,
    ImageFeatures,
    MaskDecoder,
    MaskEncoder,
    break_stick,
)


def test_gated_convolution() -> None:
    layer = GatedConv(nn.Conv2d(3, 8, 3), normalise=False)
    x = torch.randn(2, 3, 6, 6)
    h, g = layer.conv(x)[:, :4], layer.conv(x)[:, 4:]
    torch.testing.assert_close(layer(x), h * g.sigmoid())
    assert {name.split(".")[0] for name in layer.state_dict()} == {"conv"}


@pytest.mark.parametrize("size", GENESIS_IMAGE_SIZES)
def test_sizes(size: int) -> None:
    images = torch.rand(2, 3, size, size)
    assert MaskEncoder(size)(images).shape == MaskEncoder(size, 8)(images).shape == (2, 256)
    log_masks = MaskDecoder(size, 5)(torch.randn(2, 3, 5))
    assert MaskDecoder(size, 5, 8)(torch.randn(2, 3, 5)).shape == log_masks.shape
    assert log_masks.shape == (2, 3, 1, size, size)
    torch.testing.assert_close(log_masks.exp().sum(1), torch.ones(2, 1, size, size))
    assert [t.shape for t in ComponentEncoder(size, 7, 8)(images, log_masks)] == [(2, 3, 7)] * 2
    assert ComponentDecoder(size, 7, 8, 3)(torch.randn(2, 3, 7)).shape == (2, 3, 3, size, size)
    assert ImageFeatures(size, 9)(images).shape == (2, 9)


@pytest.mark.parametrize("network", [MaskEncoder, lambda size: MaskDecoder(size, 4)])
def test_other_sizes_are_refused(network: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="image size 48 does not fit GENESIS: it takes 32 or 64"):
        network(48)


def test_the_stick() -> None:
    logits = torch.randn(2, 4, 1, 3, 3)
    log_masks, log_scopes = break_stick(logits)
    scope = torch.ones(2, 1, 3, 3)
    for k in range(3):
        torch.testing.assert_close(log_scopes[:, k].exp(), scope)
        torch.testing.assert_close(log_masks[:, k].exp(), scope * logits[:, k].sigmoid())
        scope = scope * (1 - logits[:, k].sigmoid())
    torch.testing.assert_close(log_masks[:, 3].exp(), scope)
    assert torch.equal(break_stick(logits[:, :1])[0], torch.zeros(2, 1, 1, 3, 3))


def test_gaussian_lstm_reads_one_step_after_the_other() -> None:
    cell = GaussianLSTM(4, 6, 3)
    inputs = torch.randn(5, 2, 4)
    lstm = nn.LSTM(4, 6)
    lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.lstm.state_dict().items()})
    expected = cell.head(lstm(inputs)[0])
    state = None
    for step, target in zip(inputs, expected, strict=True):
        loc, raw_scale, state = cell(step, state)
        torch.testing.assert_close(torch.cat([loc, raw_scale], 1), target)
