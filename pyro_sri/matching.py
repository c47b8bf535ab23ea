"""Matching imagined slots to segregated slots (Emami et al. 2023, section 4)."""

from collections.abc import Callable
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Matching = Literal["greedy", "hungarian", "identity"]
MatchOn = Literal["means", "samples"]


@torch.no_grad()
def slot_distances(imagined: Tensor, segregated: Tensor) -> Tensor:
    """Euclidean distances between slots.

    Args:
        imagined: Means or samples of the imagined slots [B, K, D].
        segregated: Means or samples of the segregated slots [B, K, D].

    Returns:
        Cost [B, K, K]: entry [b, k, j] is the distance from imagined slot k to segregated slot j. It has no gradient.
        It is finite, so that every matching gives an order: distances that overflow become the largest float.
    """
    return torch.linalg.vector_norm(imagined[:, :, None] - segregated[:, None], dim=-1).nan_to_num()


@torch.no_grad()
def greedy_matching(cost: Tensor) -> Tensor:
    """Gives each imagined slot, in order, the cheapest segregated slot that is still free.

    It is batched, runs on the cost's device without host synchronisation, and breaks ties by the lowest index.

    Args:
        cost: [B, K, K].

    Returns:
        Order [B, K] of integers: position k takes segregated slot order[:, k].
    """
    cost = cost.clone()
    order = []
    for k in range(cost.shape[1]):
        chosen = cost[:, k].argmin(1)  # [B]
        order.append(chosen)
        cost.scatter_(2, chosen[:, None, None].expand(-1, cost.shape[1], 1), torch.inf)
    return torch.stack(order, 1)


@torch.no_grad()
def hungarian_matching(cost: Tensor) -> Tensor:
    """The assignment with the lowest total cost (Kuhn 1955), computed by SciPy on the host.

    Args:
        cost: [B, K, K].

    Returns:
        Order [B, K] of integers: position k takes segregated slot order[:, k].
    """
    columns = [torch.from_numpy(linear_sum_assignment(c)[1]) for c in cost.cpu().numpy()]
    order = torch.stack(columns).to(cost.device)
    # Computed from the cost, so that Pyro's graphs show the dependence, which they cannot see through SciPy.
    return torch.zeros_like(cost).scatter_(2, order[..., None], 1.0).argmax(2)


def identity_matching(cost: Tensor) -> Tensor:
    """Position k takes slot k, for a segregation that has learned its own order.

    Args:
        cost: [B, K, K], of which only the shape matters.

    Returns:
        Order [B, K] of integers.
    """
    return torch.arange(cost.shape[1], device=cost.device).expand(cost.shape[:2])


MATCHINGS: dict[Matching, Callable[[Tensor], Tensor]] = {
    "greedy": greedy_matching,
    "hungarian": hungarian_matching,
    "identity": identity_matching,
}


def permute_slots(slots: Tensor, order: Tensor) -> Tensor:
    """Slots [B, K, D] in a new order [B, K]: position k is slots[:, order[:, k]]."""
    return slots.gather(1, order[..., None].expand_as(slots))
