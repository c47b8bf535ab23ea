"""Published state dicts: checked, and copied into our modules, all or nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_sri.errors import UserError

StateDict = Mapping[str, Tensor]


def check_weights(state_dict: StateDict) -> None:
    """Raises UserError unless the state dict maps names to finite real tensors."""
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not torch.is_tensor(tensor) or not tensor.is_floating_point():
            raise UserError(f"the weights hold {name!r}, which is no parameter: they must map names to real tensors")
        if not torch.isfinite(tensor).all():
            raise UserError(f"the weights hold values that are not finite, in '{name}'")


def size_of(state_dict: StateDict, name: str, dim: int, system: str) -> int:
    """A dimension of one of the authors' matrices.

    Raises:
        UserError: If the weights have no such matrix.
    """
    if name not in state_dict:
        raise UserError(f"the weights lack '{name}': not a state dict of {system}?")
    if state_dict[name].dim() != 2:
        raise UserError(f"'{name}' has shape {list(state_dict[name].shape)}: it must be a matrix")
    return state_dict[name].shape[dim]


def fill(roots: Mapping[str, nn.Module], renamed: Mapping[str, tuple[str, Tensor]]) -> None:
    """Copies tensors (our name -> their name, tensor) into the roots, all or none; the roots take their dtype.

    Raises:
        UserError: On parameters that are unknown, missing or misshapen.
    """
    ours = {f"{root}.{name}": p for root, module in roots.items() for name, p in module.named_parameters()}
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
        raise UserError(f"the weights lack {len(missing)} parameters of this network, the first is our '{missing[0]}'")
    dtype = next(iter(renamed.values()))[1].dtype
    for root, module in roots.items():
        module.to(dtype)
        module.load_state_dict({name: renamed[f"{root}.{name}"][1] for name in module.state_dict()})
