"""A GPU that is none: a device whose tensors have real numbers, and refuse those of the host as CUDA's do.

They are wrappers that report the device "fake" and compute on the CPU. An operation over both devices is an error, but
for numbers (tensors of no dimension) of the host in arithmetic and for the host's indices, as on a GPU. What makes the
host wait is an error where `unawaited` says so. Every error has the line of the project that is at fault.

`install` turns a process into one that has such a GPU, for good: only for a process of its own, as
`support.forking.run_command(.., on_fake_gpu=True)` makes.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from support.tape import CannotRecord, our_line, refuse_waiting

NAME = "fake"
CPU = torch.device("cpu")
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # in PyTorch from 2.9 on

IN_CHILDREN = """
import pyro_sri.scripts.evaluate, pyro_sri.scripts.train
from pyro_sri.scripts.main import main
from support.fake_gpu import install
install()
main()
"""

COPIES = {"aten::copy_", "aten::_to_copy"}
NO_KERNEL = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}

_strict = False  # whether waiting is an error
_kernels: Counter[str] | None = None  # of operations that compute, by their names; None: not counted


class OtherDevice(RuntimeError):
    """Tensors of host and device meet in one operation."""


@contextmanager
def unawaited() -> Iterator[None]:
    """What makes the host wait for the device within is an error (CannotRecord)."""
    global _strict
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts what a GPU would start a kernel for within: operations that make numbers or change them, not views."""
    global _kernels
    before, _kernels = _kernels, Counter()
    try:
        yield _kernels
    finally:
        _kernels = before


def fake_gpu() -> torch.device:
    """The device; after `install`."""
    return torch.device(NAME, 0)


class OnDevice(Tensor):
    """A tensor on the device; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "OnDevice":
        layout: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        kind: dict[str, Any] = {"dtype": inner.dtype, "layout": inner.layout, "device": fake_gpu()}
        wrapper = Tensor._make_wrapper_subclass(cls, inner.size(), **layout, **kind, requires_grad=requires_grad)
        wrapper.inner = inner
        return wrapper

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def tolist(self) -> Any:
        _wait("tolist")
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise OtherDevice(f"a tensor of the device is no NumPy array, {our_line()}")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy: Tensor = OnDevice(self.inner.detach().clone())
        is_parameter = isinstance(self, nn.Parameter)
        copy = nn.Parameter(copy, self.requires_grad) if is_parameter else copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy


def _wait(what: object) -> None:
    if _strict:
        raise CannotRecord(f"{what} makes the host wait for the device, {our_line()}")


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, bias: Tensor | None = None, other_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden
    if bias is not None:
        gates = gates + bias + other_bias
    i, f, c, o = gates.chunk(4, 1)
    i, f, c, o = i.sigmoid(), f.sigmoid(), c.tanh(), o.sigmoid()
    after = f * cell + i * c
    return o * after.tanh(), after, torch.cat([i, f, c, o], 1)


def _lstm_cell_backward(
    of_hidden: Tensor | None, of_cell: Tensor | None, cell: Tensor, after: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    i, f, c, o = workspace.chunk(4, 1)
    squashed = after.tanh()
    of_hidden = torch.zeros_like(after) if of_hidden is None else of_hidden
    of_after = of_hidden * o * (1 - squashed**2) + (0 if of_cell is None else of_cell)
    of_gates = (of_after * c * i * (1 - i), of_after * cell * f * (1 - f), of_after * i * (1 - c**2))
    gates = torch.cat([*of_gates, of_hidden * squashed * o * (1 - o)], 1)
    return gates, of_after * f, gates.sum(0) if has_bias else None


def _gru_cell(
    inputs: Tensor, hidden: Tensor, state: Tensor, bias: Tensor | None = None, other_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if bias is not None:
        inputs, hidden = inputs + bias, hidden + other_bias
    (ir, iz, ic), (hr, hz, hc) = inputs.chunk(3, 1), hidden.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (ic + r * hc).tanh()
    return n + z * (state - n), torch.cat([r, z, n, state, hc], 1)


def _gru_cell_backward(of_state: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    r, z, n, state, hc = workspace.chunk(5, 1)
    of_z, of_n = of_state * (state - n) * z * (1 - z), of_state * (1 - z) * (1 - n**2)
    of_r = of_n * hc * r * (1 - r)
    of_inputs, of_hidden = torch.cat([of_r, of_z, of_n], 1), torch.cat([of_r, of_z, of_n * r], 1)
    biases = (of_inputs.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_inputs, of_hidden, of_state * z, *biases


# What PyTorch calls on devices, and CPUs lack.
OWN_KERNELS: Mapping[str, Callable[..., Any]] = {
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
}


def _dispatch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One operation: whether a GPU would take it, then its numbers on the CPU, then where its results are."""
    name, target = func._schema.name, kwargs.get("device")
    target = None if target is None else torch.device(target).type
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    held = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if held:
        _check(func, args, tensors, target)
    if name == "aten::is_pinned":
        return False
    if name == "aten::_pin_memory":
        return args[0]
    inner = [_numbers(value) for value in args]
    options = {key: _numbers(value) for key, value in kwargs.items()}
    if target == NAME:
        options["device"] = CPU
    if options.get("pin_memory"):
        options["pin_memory"] = False
    result = OWN_KERNELS.get(name, func)(*inner, **options)
    if _kernels is not None and (held or target == NAME) and _computes(func, inner, result):
        _kernels[name] += 1
    if not _is_on_device(name, args, held, target):
        return result
    if held and func._schema.is_mutable and func._schema.name.endswith("_") and isinstance(args[0], Tensor):
        return args[0]
    return _wrapped(result)


def _computes(func: Any, args: Sequence[Any], result: Any) -> bool:
    """Whether an operation on tensors of the CPU makes or changes numbers; views have the memory of their tensors."""
    if func._schema.name in NO_KERNEL:
        return False
    given = {tensor.untyped_storage()._cdata for tensor in _tensors(args)}
    return func._schema.is_mutable or any(made.untyped_storage()._cdata not in given for made in _tensors([result]))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among an operation's arguments, lists of tensors included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _numbers(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_numbers, value))
    return value.inner if isinstance(value, OnDevice) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_wrapped, value))
    return OnDevice(value) if isinstance(value, Tensor) else value


def _is_on_device(name: str, args: Sequence[Any], held: bool, target: str | None) -> bool:
    if name == "aten::copy_":
        return isinstance(args[0], OnDevice)
    return held if target is None else target == NAME


def _check(func: Any, args: Sequence[Any], tensors: Sequence[Tensor], target: str | None) -> None:
    """Raises what a GPU would: OtherDevice, or CannotRecord where nothing may wait."""
    name = func._schema.name
    on_host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    if name == "aten::copy_" and on_host:
        _wait(f"{func} between host and device")
    elif name == "aten::_to_copy" and target not in (None, NAME):
        _wait(f"{func} to the host")
    elif on_host and name not in INDEXING and any(tensor.dim() for tensor in on_host):
        places = ", ".join(f"{tensor.device} {tuple(tensor.shape)}" for tensor in tensors)
        raise OtherDevice(f"{func} is over {places}, {our_line()}")
    elif on_host and name in INDEXING:
        _wait(f"{func} with the host's indices")
    if _strict:
        refuse_waiting(func, args)


class _Creating(TorchDispatchMode):
    """Makes tensors on the device where they are asked for, and sees operations on the host's alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Anywhere(CPUAccelerator):
    """Takes any device for one."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""


def _new_fabric(*args: Any, **kwargs: Any) -> Fabric:
    return Fabric(strategy=SingleDeviceStrategy(device=fake_gpu(), accelerator=_Anywhere()))


def install() -> None:
    """Gives this process the device, for good, as the one that the commands pick; no step waits for it.

    The commands of a study have it too.

    The first steps of a training are excepted: those that validate.
    """
    import pyro

    from pyro_sri.scripts import bench
    from pyro_sri.study import local
    from pyro_sri.training import devices, loop, step

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    torch._C._set_only_lift_cpu_tensors(True)
    _keep_identities()
    pick_device = devices.pick_device
    for module in list(sys.modules.values()):
        if getattr(module, "pick_device", None) is pick_device:
            module.pick_device = lambda device: fake_gpu()  # type: ignore[attr-defined]
    local.COMMAND = (sys.executable, "-c", IN_CHILDREN)
    bench.LOADER_BYTES = 2**18  # which has nothing to do with the device
    loop.launch = _new_fabric
    step.new_fabric = _new_fabric
    plain = step.Stepper._work

    def work(self: Any, batch: Tensor) -> None:
        if pyro.infer.util.is_validation_enabled():
            plain(self, batch)
            return
        with unawaited():
            plain(self, batch)

    step.Stepper._work = work  # type: ignore[method-assign]
    _Creating().__enter__()


def _keep_identities() -> None:
    """Parameters that move stay who they are, as they do on their way to a GPU."""
    plain = nn.Module._apply

    def apply(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return plain(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    nn.Module._apply = apply  # type: ignore[method-assign]


class _Backend(backend_registration._DummyBackendModule if AVAILABLE else object):  # type: ignore[misc]
    """What PyTorch asks of a device's module."""

    def set_device(self, device: Any) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_autocast_enabled(self) -> bool:
        return False
