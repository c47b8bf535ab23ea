"""CUDA graphs: what a step does on a GPU, recorded once and repeated without Python."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP = 3  # calls that run as they are, so that libraries and optimiser have allocated what they keep


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What repeats the work: its CUDA graph on a GPU, the work itself on the CPU.

    Recording runs nothing. What is repeated reads and writes the same memory as the recorded kernels, and draws from
    the default generator as it is then seeded.

    Args:
        work: Kernels on tensors that stay where they are; it must not wait for the device.
        device: Where it runs.
    """
    if device.type != "cuda":
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class Captured:
    """A function of one tensor, recorded after a few calls and repeated from then on.

    Args:
        function: What to call; all that it leaves behind must be in tensors that it changes in place.
        device: Where it runs.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.inputs: Tensor | None = None
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, Callable[[], None]] = {}

    def __call__(self, inputs: Tensor, phase: Hashable = None) -> None:
        """Does the work.

        Args:
            inputs: Always of the same shape.
            phase: Calls of different phases do different work, and are recorded apart.
        """
        if self.inputs is None:
            self.inputs = torch.empty_like(inputs, device=self.device)
        self.inputs.copy_(inputs, non_blocking=True)
        self.calls[phase] = self.calls.get(phase, 0) + 1
        if self.calls[phase] <= WARM_UP:
            self._run_aside()
            return
        if phase not in self.recorded:
            self.recorded[phase] = record(self._run, self.device)
        self.recorded[phase]()

    def _run(self) -> None:
        assert self.inputs is not None
        self.function(self.inputs)

    def _run_aside(self) -> None:
        """On a stream of its own, as recording will."""
        if self.device.type != "cuda":
            self._run()
            return
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._run()
        current.wait_stream(stream)
