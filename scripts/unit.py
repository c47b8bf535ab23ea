"""U, a fixed piece of work: times quoted as ratios to it compare across machines.

U is the best time of a forward and backward pass through a plain, untuned broadcast decoder over 72 slots (four 5x5
transposed convolutions of stride 2 with group norm and ReLU, 64 channels, 4x4 to 64x64, then a 1x1 convolution to 4
channels): 60.4 GFLOP in float32, with PyTorch's defaults. Take it in a process of its own, in turn with what it
measures:

    python -m pyro_sri.scripts.unit            prints U in seconds
"""

import time

import torch
from torch import nn

NUM_SLOTS = 72
CHANNELS = 64
CODE_SIZE = CHANNELS + 2  # features and coordinates of each place
BROADCAST = 4  # side of the map that is decoded
REPEATS = 5


def plain_decoder() -> nn.Sequential:
    """Maps [N, 66, 4, 4] -> images with masks [N, 4, 64, 64]."""
    layers: list[nn.Module] = []
    for in_channels in (CODE_SIZE, CHANNELS, CHANNELS, CHANNELS):
        upsampling = nn.ConvTranspose2d(in_channels, CHANNELS, 5, stride=2, padding=2, output_padding=1)
        layers += [upsampling, nn.GroupNorm(8, CHANNELS), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(CHANNELS, 4, 1))


def unit(repeats: int = REPEATS, num_slots: int = NUM_SLOTS) -> float:
    """U in seconds: the best of some passes, after one that is not timed.

    Args:
        repeats: Timed passes.
        num_slots: Slots that are decoded at once; 72 is the unit, other numbers are for tests.
    """
    decoder = plain_decoder()
    maps = torch.randn(num_slots, CODE_SIZE, BROADCAST, BROADCAST)
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        decoder(maps).square().sum().backward()
        times.append(time.perf_counter() - start)
    return min(times[1:])


if __name__ == "__main__":
    print(f"{unit():.4f}")
