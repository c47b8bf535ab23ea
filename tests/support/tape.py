"""A stand-in for CUDA graphs on the CPU: kernels are noted while they run, and run again on the same memory."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pyro_sri.guides
import pyro_sri.models

OURS = (*pyro_sri.__path__, *pyro_sri.models.__path__, *pyro_sri.guides.__path__)

FROM_THE_HOST = {"aten::lift_fresh"}  # what torch.tensor, torch.from_numpy and lists as indices come to
WITH_MASKS = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
ON_THE_HOST_ALONE = {"profiler"}


class CannotRecord(Exception):
    """A CUDA graph cannot hold what was done, or where it was done."""


class Kernel(NamedTuple):
    """One operation with the tensors that it was given and those that it made."""

    operation: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    made: list[Tensor | None]
    with_gradients: bool  # some operations make more where there are gradients

    def run(self) -> None:
        """Does it once more, into the memory of the first time."""
        with torch.set_grad_enabled(self.with_gradients):
            fresh = _tensors(self.operation(*self.args, **self.kwargs))
        for before, now in zip(self.made, fresh, strict=True):
            if before is not None:
                before.copy_(now)


class Tape(TorchDispatchMode):
    """Notes every operation that computes; views need no repetition, since their memory is another's.

    What is repeated has its numbers and its memory from the recording, as in a CUDA graph; draws come from the default
    generator, as it is then seeded. Unlike a CUDA graph, it does the work while it records.

    Attributes:
        kernels: What was done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace in ON_THE_HOST_ALONE:
            return func(*args, **kwargs)
        refuse_waiting(func, args)
        if func._schema.name in FROM_THE_HOST and args[0].numel():
            raise CannotRecord(f"{func} brings numbers from the host, {our_line()}")
        result = func(*args, **kwargs)
        given = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        made = [None if _memory(tensor) in given else tensor for tensor in _tensors(result)]
        changes_numbers = func._schema.is_mutable and torch.Tag.inplace_view not in func.tags
        if changes_numbers or any(tensor is not None for tensor in made):
            self.kernels.append(Kernel(func, args, kwargs, made, torch.is_grad_enabled()))
        return result

    def replay(self) -> None:
        """Does all of it again."""
        with torch._C._AutoDispatchBelowAutograd():
            for kernel in self.kernels:
                kernel.run()


def record(work: Callable[[], None], device: torch.device, stream: None = None) -> Callable[[], None]:
    """In place of `training.capture.record`: the tape has run while recording, so that the first repetition is none."""
    assert device.type == "cpu"
    tape = Tape()
    with tape:
        work()
    done = iter([True])

    def repeat() -> None:
        if not next(done, False):
            tape.replay()

    return repeat


def refuse_waiting(func: Any, args: Sequence[Any]) -> None:
    """Raises CannotRecord if the host must wait for the operation's result: a number, or a shape."""
    if func._schema.name in WITH_MASKS:
        waits = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1]))
    else:
        waits = bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))
    if waits:
        raise CannotRecord(f"{func} makes the host wait for the device, {our_line()}")


def our_line() -> str:
    """The innermost line of the project that is running."""
    for frame in _frames(sys._getframe(1)):
        if frame.f_code.co_filename.startswith(OURS):
            return f"in {Path(frame.f_code.co_filename).name}, line {frame.f_lineno}, {frame.f_code.co_name}"
    return "in no line of the project"


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
