r"""Editing scenes: keep some slots of an image and imagine the rest; remove, insert and swap objects.

A scene is its slots [B, K, D], B scenes at a time, in the order of the sequence `slot_0` .. `slot_{K-1}`. Infer them,
change them, and decode them. The decoder treats them as a set, so their order does not affect the image. It does affect
what is imagined: slot k is drawn from :math:`p(z_k \mid z_{<k}, s)`.
"""

import contextlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Categorical, Independent, MixtureSameFamily
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor

from pyro_sri.distributions import diagonal_normal
from pyro_sri.inference import Scenes, decode_scenes, join_scenes
from pyro_sri.programs import Guide, Latents, Model, check_range, evaluating, record_of
from pyro_sri.system.errors import UserError

Slots = Collection[int] | Tensor  # which slots: numbers, a tensor of numbers, or a bool tensor [K]

CANDIDATES = 256  # per imagined scene; they are cheap, because only the chosen one is decoded


@torch.no_grad()
def infer_slots(guide: Guide, images: Tensor) -> Tensor:
    """One draw of the slots of images, from the guide.

    Args:
        guide: A guide with sites `slot_0`, `slot_1`, ..: that of SRI with any segregation, of GENESIS-v2 (on its own or
            with a scene variable), or the recurrent one.
        images: [B, 3, H, W] in [0, 1].

    Returns:
        [B, K, D].

    Raises:
        UserError: If the guide has no such sites, or does not accept the images.
    """
    check_range(guide, images)
    with evaluating(guide):
        sites = poutine.trace(guide).get_trace(images).nodes
    sequence = record_of(guide).sequence
    names = [] if sequence is None else sequence.names(sites)
    if not names:
        raise UserError(
            f"{type(guide).__name__} does not infer a sequence of slots slot_0, slot_1, ..: to edit "
            "scenes, use a run of SRI, GENESIS-v2 or the recurrent guide"
        )
    return torch.stack([sites[name]["value"] for name in names], 1)


def decode(model: Model, slots: Tensor) -> Scenes:
    """Decodes slots by running the model conditioned on all of them.

    Gradients are kept if the slots require them.

    Args:
        model: A model with sites `slot_0`, `slot_1`, ..
        slots: [B, K, D], with B and K of at least 1.

    Raises:
        ValueError: If there are no slots, or the model draws no sequence of them.
    """
    if not slots.numel():
        raise ValueError(f"slots of shape {list(slots.shape)} show nothing: decode at least one scene of one slot")
    num_slots = slots.shape[1]
    return join_scenes(decode_scenes(model, _by_site(model, slots, range(num_slots)), num_slots=num_slots))


class Imagined(NamedTuple):
    """Scenes in which some slots were kept and the others imagined.

    Attributes:
        slots: Kept and imagined slots [B, K, D] in the order of the sequence.
        effective: The effective number of candidates that each scene was chosen from [B], from 1 to all of them:
            one over the sum of the squared normalised weights. Near 1, the draws are only rough approximations.
    """

    slots: Tensor
    effective: Tensor


@torch.no_grad()
def imagine_rest(
    model: Model,
    slots: Tensor,
    keep: Slots,
    *,
    propose: Callable[[Tensor], Independent] | None = None,
    num_slots: int | None = None,
    temperature: float = 1.0,
    candidates: int = CANDIDATES,
) -> Imagined:
    r"""Keeps some slots of each scene, and draws the others from the model given the kept ones.

    .. math::
        p(s, z_{free} \mid z_{keep}) \propto p(s) \textstyle\prod_k p(z_k \mid z_{<k}, s)

    by sampling importance resampling (Rubin 1987), which becomes exact as the number of candidates grows. A candidate
    is a run of the model conditioned on the kept slots: it draws a scene variable, and each free slot given those
    before it. It does not depend on kept slots that come later, but its weight does:

    .. math:: w = \frac{p(s)}{r(s)} \textstyle\prod_{k \in keep} p(z_k \mid z_{<k}, s),

    and one candidate is drawn in proportion to the weights. Scene variables are proposed by r(s) = p(s) or, with
    `propose`, half from p(s) and half from q(s | z_keep). If the slots determine much of the scene, draws from the
    prior seldom fit them.

    Args:
        model: A model with sites `slot_0`, `slot_1`, ..
        slots: [B, K, D]. Each scene is imagined once. For N scenes of one image, use `slots[:1].expand(N, -1, -1)`.
        keep: Which slots to keep, each from 0 to K - 1, or bool [K]. They keep their position in the sequence.
        propose: q(s | slots), slots [B, n, D] -> a distribution over [B, S], such as `scene_dist` of SRI's guide; for
            models with a scene variable.
        num_slots: Slots per scene afterwards, K if None. With more than K, the last ones are new.
        temperature: Factor on every prior standard deviation. 0 imagines means, without proposals.
        candidates: Candidates for each scene.

    Raises:
        ValueError: If `keep` names a slot that does not exist before or afterwards.
    """
    num_scenes, num_slots = len(slots), slots.shape[1] if num_slots is None else num_slots
    keep = _numbers(keep, min(slots.shape[1], num_slots))
    given = _by_site(model, slots.repeat(candidates, 1, 1), keep)  # site -> [C * B, D]
    log_weights = slots.new_zeros(candidates, num_scenes)
    if propose is not None and keep and temperature > 0:
        proposal = _half_and_half(model.scene_dist(num_scenes, temperature), propose(slots[:, sorted(keep)]))
        scenes = proposal.sample((candidates,))  # [C, B, S]
        given["scene"] = scenes.flatten(0, 1)
        log_weights = log_weights - proposal.log_prob(scenes)
    sites = _draw_latents(model, given, candidates * num_scenes, num_slots, temperature)
    for name, value in given.items():
        log_weights = log_weights + sites[name]["fn"].log_prob(value).view_as(log_weights)
    drawn = torch.stack([sites[name]["value"] for name in map(_sequence(model).name, range(num_slots))], 1)
    chosen = Categorical(logits=log_weights.T).sample()  # [B]
    return Imagined(
        slots=drawn.unflatten(0, log_weights.shape)[chosen, torch.arange(num_scenes, device=slots.device)],
        effective=1 / log_weights.softmax(0).square().sum(0),
    )


def remove(slots: Tensor, which: Slots) -> Tensor:
    """Slots [B, K, D] without some of them: [B, K - n, D].

    The other slots take over the area of the removed ones, because masks share every pixel.

    Raises:
        ValueError: If there is no such slot, or none is left.
    """
    which = _numbers(which, slots.shape[1])
    left = [k for k in range(slots.shape[1]) if k not in which]
    if not left:
        raise ValueError(f"all {slots.shape[1]} slots would be removed: leave at least one")
    return slots[:, left]


def insert(slots: Tensor, new: Tensor, position: int) -> Tensor:
    """Slots [B, K, D] with a new one, [B, D] or [D], as slot `position` (0 to K): [B, K + 1, D].

    Raises:
        ValueError: If the position is out of range.
    """
    (position,) = _numbers([position], slots.shape[1] + 1)
    new = new.expand(len(slots), -1)
    return torch.cat([slots[:, :position], new[:, None], slots[:, position:]], 1)


def swap(first: Tensor, i: int, second: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """Two scenes (or batches of them), [B, K, D] and [B, L, D], with slot i of the first and j of the second exchanged.

    Raises:
        ValueError: If there is no such slot.
    """
    (i,), (j,) = _numbers([i], first.shape[1]), _numbers([j], second.shape[1])
    first_after, second_after = first.clone(), second.clone()
    first_after[:, i], second_after[:, j] = second[:, j], first[:, i]
    return first_after, second_after


def _by_site(model: Model, slots: Tensor, which: Collection[int]) -> dict[str, Tensor]:
    sequence = _sequence(model)
    return {sequence.name(k): slots[:, k] for k in which}


def _sequence(model: Model) -> Latents:
    """The slots of a model that draws them one after another.

    Raises:
        ValueError: If the model does not.
    """
    if (sequence := record_of(model).sequence) is None:
        raise ValueError(f"{type(model).__name__} does not draw a sequence of slots: its scenes cannot be edited")
    return sequence


def _numbers(which: Slots, num_slots: int) -> list[int]:
    """Numbers of slots, in the given order.

    Raises:
        ValueError: If one does not exist.
    """
    if isinstance(which, Tensor) and which.dtype == torch.bool:
        if which.shape != (num_slots,):
            raise ValueError(f"a mask of shape {list(which.shape)} does not say which of {num_slots} slots are meant")
        which = which.nonzero()[:, 0]
    numbers = [int(slot) for slot in which]
    for slot in numbers:
        if not 0 <= slot < num_slots:  # PyTorch would count a negative one from the end
            raise ValueError(f"there is no slot {slot}: the slots are 0 to {num_slots - 1}")
    return numbers


def _half_and_half(first: Independent, second: Independent) -> MixtureSameFamily:
    """The mixture of two diagonal normals over [B, S] with equal weights."""
    loc = torch.stack([first.mean, second.mean], 1)  # [B, 2, S]
    scale = torch.stack([first.stddev, second.stddev], 1)
    return MixtureSameFamily(Categorical(logits=torch.zeros_like(loc[..., 0])), diagonal_normal(loc, scale))


def _draw_latents(
    model: Model, given: dict[str, Tensor], num_scenes: int, num_slots: int, temperature: float
) -> dict[str, Any]:
    """The sites of scene and slots in a run of the conditioned model that decodes nothing.

    The model is run with one more slot, and the run ends where that slot would be drawn.
    """
    beyond = _sequence(model).name(num_slots)
    end = poutine.escape(escape_fn=lambda site: site["name"] == beyond)
    with (
        evaluating(model),
        poutine.trace() as recorder,
        contextlib.suppress(NonlocalExit),
        poutine.condition(data=given),
        end,
    ):
        model(num_scenes=num_scenes, num_slots=num_slots + 1, temperature=temperature)
    nodes: dict[str, Any] = recorder.trace.nodes
    return nodes
