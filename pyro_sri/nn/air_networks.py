"""The networks of AIR (Eslami et al. 2016): small perceptrons and one recurrent cell."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sri.nn.precision import in_single
from pyro_sri.nn.spatial_transformer import read_windows

WHERE_SIZE = 3  # scale, x, y
SCALE_FLOOR = 1e-8  # of posteriors: a softplus of very negative numbers is 0, and no standard deviation


def perceptron(sizes: Sequence[int], *, activate_last: bool = False) -> nn.Sequential:
    """Linear layers with ReLUs between them.

    Args:
        sizes: Widths from the input to the output.
        activate_last: Whether there is also a ReLU after the last layer.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers if activate_last else layers[:-1])


class WindowDecoder(nn.Module):
    """Decodes a code to a window: sigmoid(MLP(z_what) + bias).

    Args:
        code_size: Size of z_what.
        hidden_sizes: Widths of the hidden layers.
        window_size: Side of the window in pixels.
        bias: Added before the sigmoid. With negative values, windows are dark at the start.
    """

    def __init__(self, code_size: int, hidden_sizes: Sequence[int], window_size: int, bias: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.bias = bias
        self.layers = perceptron([code_size, *hidden_sizes, window_size**2])

    def forward(self, codes: Tensor) -> Tensor:
        """[.., code_size] -> [.., window_size, window_size] in [0, 1]."""
        windows = torch.sigmoid(in_single(self.layers(codes)) + self.bias)
        return windows.unflatten(-1, (self.window_size, self.window_size))


class WindowEncoder(nn.Module):
    """Encodes a window to the mean and standard deviation (a softplus) of z_what.

    Args:
        window_size: Side of the window in pixels.
        hidden_sizes: Widths of the hidden layers.
        code_size: Size of z_what.
    """

    def __init__(self, window_size: int, hidden_sizes: Sequence[int], code_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.layers = perceptron([window_size**2, *hidden_sizes, 2 * code_size])

    def forward(self, images: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, H, W] and places z_where [B, 3] -> mean and scale [B, code_size]."""
        windows = read_windows(images, where, self.window_size)
        loc, raw_scale = in_single(self.layers(windows.flatten(-2))).chunk(2, -1)
        return loc, F.softplus(raw_scale).clamp(min=SCALE_FLOOR)


class Latents(NamedTuple):
    """The latents of a step: z_where [B, 3], z_what [B, code_size], z_pres [B] (0 or 1)."""

    where: Tensor
    what: Tensor
    presence: Tensor

    def detach(self) -> "Latents":
        """The same without gradients."""
        return Latents(*(latent.detach() for latent in self))


State = tuple[Tensor, Tensor]


class StepLSTM(nn.Module):
    """An LSTM that attends to one object per step. It reads the image features and the latents of the previous step.

    Args:
        image_size: Image side in pixels.
        embed_sizes: Widths of the first layers for the image, each with a ReLU. Can be empty.
        code_size: Size of z_what.
        hidden_size: LSTM units.
        predict_sizes: Widths of the hidden layers after the LSTM.
        output_size: Number of outputs per step.
    """

    def __init__(
        self,
        image_size: int,
        embed_sizes: Sequence[int],
        code_size: int,
        hidden_size: int,
        predict_sizes: Sequence[int],
        output_size: int,
    ) -> None:
        super().__init__()
        widths = [image_size**2, *embed_sizes]
        self.embed = perceptron(widths, activate_last=True) if embed_sizes else nn.Identity()
        self.cell = nn.LSTMCell(widths[-1] + WHERE_SIZE + code_size + 1, hidden_size)
        self.predict = perceptron([hidden_size, *predict_sizes, output_size])
        self.hidden_start = nn.Parameter(torch.zeros(1, hidden_size))
        self.cell_start = nn.Parameter(torch.zeros(1, hidden_size))

    def start(self, num_scenes: int) -> State:
        """The learned first state, [B, hidden_size] twice."""
        return self.hidden_start.expand(num_scenes, -1), self.cell_start.expand(num_scenes, -1)

    def features(self, images: Tensor) -> Tensor:
        """Grey images [B, H, W] -> [B, features]."""
        return self.embed(images.flatten(1))

    def forward(self, features: Tensor, before: Latents, state: State) -> tuple[Tensor, State]:
        """Image features, latents of the previous step and state -> [B, output_size] and the next state."""
        state = self.cell(torch.cat([features, before.where, before.what, before.presence[:, None]], -1), state)
        return self.predict(state[0]), state
