"""How networks are run: their precision, compilation, and what is kept for the backward pass.

None of it changes what a module computes (up to rounding), its parameters, or their names.
"""

import contextlib
import functools
import warnings
from contextlib import AbstractContextManager
from typing import Any, get_args

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_sri.config import Precision


def set_precision(module: nn.Module, precision: Precision) -> None:
    """How convolutions multiply; everything else (norms, densities, KLs) stays in float32.

    Args:
        module: The module whose convolutions are meant.
        precision: "float32"; "tf32": float32 with 10 bits of mantissa in the products, on GPUs that can, matrix
            products included; "bf16": bfloat16, all but 1x1 convolutions. The first two are settings of the process.

    Raises:
        ValueError: On another precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision '{precision}': it must be one of {', '.join(get_args(Precision))}")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        for convolution in module.modules():
            if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and max(convolution.kernel_size) > 1:
                convolution.forward = _in_bfloat16(convolution.forward)  # type: ignore[method-assign]


def _in_bfloat16(forward: Any) -> Any:
    @functools.wraps(forward)
    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            outputs: Tensor = forward(*inputs)
        return outputs.float()

    return run


def decoders(module: nn.Module) -> list[nn.Module]:
    """The networks by the name of decoder within a model, a guide, or anything made of them: most of the arithmetic."""
    return [
        network
        for name, network in module.named_modules()  # each once, also where two parents share it
        if name.rpartition(".")[2].endswith("decoder") and not isinstance(network, PyroModule)
    ]


def recompute_decoders(module: nn.Module) -> None:
    """Keeps only the decoders' inputs for the backward pass, which decodes once more (gradient checkpointing).

    Decoders that are also compiled must have been before.
    """
    for decoder in decoders(module):
        contexts = functools.partial(_once_noticed, decoder)
        decoder.forward = functools.partial(
            checkpoint, decoder.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )


def _once_noticed(network: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first pass and of later ones: batch normalisation must not count the same batch twice."""
    return contextlib.nullcontext(), _Unnoticed(network)


class _Unnoticed(AbstractContextManager[None]):
    """Batch normalisation leaves its running statistics as they are; may be entered again (EMORL goes back twice)."""

    def __init__(self, network: nn.Module) -> None:
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.noticing = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]

    def __enter__(self) -> None:
        for norm, _, _ in self.noticing:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, momentum, count in self.noticing:
            norm.momentum, norm.num_batches_tracked = momentum, count


def compile_decoders(module: nn.Module, device: torch.device) -> None:
    """Compiles the decoders with `torch.compile`; where there is no compiler, warns and leaves them as they are."""
    if not _can_compile(device):
        warnings.warn("there is no compiler that torch.compile can use: the decoders run uncompiled", stacklevel=2)
        return
    for decoder in decoders(module):
        decoder.forward = torch.compile(decoder.forward)


def _can_compile(device: torch.device) -> bool:
    """Whether a small function compiles."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception:  # what a missing compiler raises depends on the device and on the version
        return False
    return True
