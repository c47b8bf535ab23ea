"""How networks are run: their precision, compilation, and what is kept for the backward pass.

None of it changes what a module computes (up to rounding), its parameters, or their names.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_sri.config import Precision
from pyro_sri.system.choices import check_choice
from pyro_sri.training.devices import without_advice


def set_precision(module: nn.Module, precision: Precision) -> None:
    """Sets the precision of convolutions. Everything else (norms, densities, KLs) stays in float32.

    On GPUs, convolutions also add in a fixed order. This is a setting of the process.

    Args:
        module: The module that contains the convolutions.
        precision: "float32"; "tf32": float32 with 10 bits of mantissa in products, also in matrix products, on GPUs
            that support it; "bf16": bfloat16, except for 1x1 convolutions. The first two are settings of the process.

    Raises:
        ValueError: If the precision is unknown.
    """
    check_choice(precision, Precision, "precision")
    with without_advice():
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.deterministic = True
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and max(convolution.kernel_size) > 1:
            convolution.__dict__.pop("forward", None)
            if precision == "bf16":
                _run_by(convolution, _in_bfloat16)


def _run_by(network: nn.Module, function: Callable[..., Any], **options: Any) -> None:
    """Replaces the forward pass of a network by `function(network, *inputs)`, a function outside all modules.

    A copy of the network, by `copy.deepcopy` or `pickle`, then runs with its own weights.
    """
    network.forward = functools.partial(function, network, **options)


def _in_bfloat16(convolution: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.autocast(inputs[0].device.type, torch.bfloat16):
        outputs: Tensor = type(convolution).forward(convolution, *inputs)
    return outputs.float()


def decoders(module: nn.Module) -> list[nn.Module]:
    """The decoders in a model, a guide, or a module that contains them. They do most of the arithmetic."""
    return _networks(module, ("decoder",))


def encoders(module: nn.Module) -> list[nn.Module]:
    """The networks that read images or features of images. They contain the other convolutions."""
    return _networks(module, ("encoder", "segmentation_head", "slot_head", "features"))


def _networks(module: nn.Module, endings: tuple[str, ...]) -> list[nn.Module]:
    """Plain networks whose names have one of these endings. A shared network occurs once."""
    return [
        network
        for name, network in module.named_modules()
        if name.rpartition(".")[2].endswith(endings) and not isinstance(network, PyroModule)
    ]


def recompute_decoders(module: nn.Module) -> None:
    """Keeps only the decoders' inputs for the backward pass, which decodes again (gradient checkpointing).

    To compile decoders as well, compile them first.
    """
    for decoder in decoders(module):
        compiled = getattr(decoder.forward, "func", None) is _compiled
        _run_by(decoder, _recomputed, run=_compiled if compiled else _as_written)


def _as_written(network: nn.Module, *inputs: Tensor) -> Any:
    return type(network).forward(network, *inputs)


def _recomputed(network: nn.Module, *inputs: Tensor, run: Callable[..., Any]) -> Any:
    contexts = functools.partial(_once_noticed, network)
    return checkpoint(run, network, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _once_noticed(network: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and of later passes: batch normalisation must not count a batch twice."""
    return contextlib.nullcontext(), _Unnoticed(network)


class _Unnoticed(AbstractContextManager[None]):
    """Freezes the statistics of batch normalisation. Can be entered again (EMORL has two backward passes)."""

    def __init__(self, network: nn.Module) -> None:
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.noticing = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]

    def __enter__(self) -> None:
        for norm, _, _ in self.noticing:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, momentum, count in self.noticing:
            norm.momentum, norm.num_batches_tracked = momentum, count


def compile_networks(module: nn.Module, device: torch.device) -> None:
    """Compiles decoders and encoders with `torch.compile`. If there is no compiler, it only warns."""
    if not can_compile(device):
        warnings.warn("there is no compiler that torch.compile can use: the networks run uncompiled", stacklevel=2)
        return
    for network in decoders(module) + encoders(module):
        _run_by(network, _compiled)


@functools.cache
def _compiled_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(forward)


def _compiled(network: nn.Module, *inputs: Tensor) -> Any:
    return _compiled_forward(type(network).forward)(network, *inputs)


def can_compile(device: torch.device) -> bool:
    """Whether a small function compiles."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception:  # the error for a missing compiler depends on the device and the version
        return False
    return True
