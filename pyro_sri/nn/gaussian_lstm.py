"""An LSTM that predicts the distribution of the next latent."""

from torch import Tensor, nn

LSTMState = tuple[Tensor, Tensor]


class GaussianLSTM(nn.Module):
    """One LSTM step and a linear head: the mean and raw scale of the next latent, given all previous inputs.

    Args:
        inputs: Size I of the input of each step.
        hidden: LSTM units.
        outputs: Size D of the latent.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(inputs, hidden)
        self.head = nn.Linear(hidden, 2 * outputs)

    def forward(self, inputs: Tensor, state: LSTMState | None = None) -> tuple[Tensor, Tensor, LSTMState]:
        """Input [B, I] and state (None at the start) -> mean [B, D], raw scale [B, D], and the next state."""
        state = self.lstm(inputs, state)
        loc, raw_scale = self.head(state[0]).chunk(2, dim=-1)
        return loc, raw_scale, state
