"""Published state dicts: checked, and copied into our modules, all or nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_sri.system.errors import UserError
from pyro_sri.system.torch_files import is_finite, is_plain

StateDict = Mapping[str, Tensor]

COUNTER = "num_batches_tracked"  # batch normalisation's only integer
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LONGEST_NAME = 200
LARGEST_SIZE = 4096  # of a layer; the published networks have at most 1024


def check_weights(state_dict: StateDict) -> None:
    """Raises UserError unless the state dict maps names to finite real tensors (and counters to integers)."""
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError("the weights have a name that is not text: they must map names to real tensors")
        counts = name.endswith(f".{COUNTER}") and torch.is_tensor(tensor) and tensor.dtype == torch.int64
        if not is_plain(tensor) or not (tensor.dtype in DTYPES or counts):
            raise UserError(f"the weights hold {name!r}, which is not a parameter: they must map names to real tensors")
        if not is_finite(tensor):
            raise UserError(f"the weights hold values that are not finite, in '{name}'")


def check_scene(image_size: int, image_sizes: tuple[int, ...], num_slots: int, system: str) -> None:
    """Raises UserError on an image size or a number of slots that a system cannot take."""
    if image_size not in image_sizes:
        *most, last = map(str, image_sizes)
        raise UserError(f"image size {image_size} does not fit {system}: its networks take {', '.join(most)} or {last}")
    if num_slots < 1:
        raise UserError(f"{num_slots} slots are too few: {system} needs at least 1")


def lstm_cell(theirs: str, ours: str) -> dict[str, str]:
    """Names of a one-layer LSTM's parameters, and of the same in an LSTM cell."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {f"{theirs}.{kind}_l0": f"{ours}.{kind}" for kind in kinds}


def rename(official_name: str, prefixes: Mapping[str, str], system: str) -> str:
    """Our name of one of the authors' parameters, by the first of their prefixes that fits.

    Raises:
        UserError: If none does.
    """
    for theirs, ours in prefixes.items():
        if official_name.startswith(theirs):
            return ours + official_name.removeprefix(theirs)
    raise UserError(f"the weights hold '{official_name}', which {system} does not have")


def size_of(state_dict: StateDict, name: str, dim: int, system: str) -> int:
    """A dimension of one of the authors' parameters.

    Raises:
        UserError: If the weights have no such parameter, or one of too few dimensions.
    """
    if name not in state_dict:
        raise UserError(f"the weights lack '{name}': not a state dict of {system}?")
    shape = state_dict[name].shape
    if len(shape) <= dim:
        raise UserError(f"'{name}' has shape {list(shape)}: it must have {dim + 1} dimensions or more")
    if not 0 < shape[dim] <= LARGEST_SIZE:
        raise UserError(f"'{name}' has shape {list(shape)}: no network has a layer of that size")
    return shape[dim]


def fill(roots: Mapping[str, nn.Module], renamed: Mapping[str, tuple[str, Tensor]]) -> None:
    """Copies tensors (our name -> their name, tensor) into the roots, all or none; the roots take their dtype.

    Parameters and persistent buffers, such as the running statistics of batch normalisation.

    Raises:
        UserError: On parameters that are unknown, missing or misshapen.
    """
    ours = {f"{root}.{name}": t for root, module in roots.items() for name, t in module.state_dict().items()}
    for name, (official_name, tensor) in renamed.items():
        if name not in ours:
            raise UserError(f"the weights hold '{official_name}', which a network of this size and kind does not have")
        if ours[name].shape != tensor.shape:
            raise UserError(
                f"'{official_name}' has shape {list(tensor.shape)} where this network has {list(ours[name].shape)}: "
                "check the image size"
            )
    missing = sorted(ours.keys() - renamed.keys())
    if missing:
        raise UserError(
            f"the weights lack {len(missing)} parameters of this network, the first of which we call '{missing[0]}'"
        )
    dtype = next(tensor.dtype for _, tensor in renamed.values() if tensor.is_floating_point())
    for root, module in roots.items():
        module.to(dtype)
        module.load_state_dict({name: renamed[f"{root}.{name}"][1] for name in module.state_dict()})
