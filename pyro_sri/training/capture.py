"""CUDA graphs: the work of a step on a GPU, recorded once and repeated without Python."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP = 3  # calls before recording, so that libraries and optimiser allocate what they keep


def records(device: torch.device) -> bool:
    """Whether work can be recorded: only on GPUs."""
    return device.type == "cuda"


def record(
    work: Callable[[], None], device: torch.device, stream: torch.cuda.Stream | None = None
) -> Callable[[], None]:
    """A function that repeats the work: its CUDA graph on a GPU, the work itself on the CPU.

    Recording runs nothing. The graph reads and writes the same memory as the recorded kernels. It draws from the
    default generator with its current seed.

    Args:
        work: Launches kernels on tensors that stay in place. It must not wait for the device.
        device: Where it runs.
        stream: The stream on which it ran before, whose workspaces libraries keep. None means another one.
    """
    if not records(device):
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


class Captured:
    """A function of one tensor, recorded after a few calls and repeated from then on.

    Args:
        function: The function. It must store all its results in tensors that it changes in place.
        device: Where it runs.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.stream = torch.cuda.Stream(device) if records(device) else None
        self.inputs: Tensor | None = None
        self.phase: Hashable = None
        self.calls = 0  # in this phase
        self.repeat: Callable[[], None] | None = None

    def __call__(self, inputs: Tensor, phase: Hashable = None) -> None:
        """Calls the function, or repeats its recording.

        Args:
            inputs: A tensor with the same shape in all calls of a phase.
            phase: Another phase does other work, so the recording and its memory are dropped.
        """
        if self.inputs is None or phase != self.phase:
            self.inputs = self.repeat = None  # frees their memory before more is allocated
            self.inputs = torch.empty_like(inputs, device=self.device)
            self.phase, self.calls = phase, 0
        self.inputs.copy_(inputs, non_blocking=True)
        self.calls += 1
        if self.calls <= WARM_UP:
            self._run_aside()
            return
        if self.repeat is None:
            self.repeat = record(self._run, self.device, self.stream)
        self.repeat()

    def _run(self) -> None:
        assert self.inputs is not None
        self.function(self.inputs)

    def _run_aside(self) -> None:
        """Runs on a separate stream, as recording does. All calls share it, to reuse its memory."""
        if self.stream is None:
            self._run()
            return
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self._run()
        current.wait_stream(self.stream)
