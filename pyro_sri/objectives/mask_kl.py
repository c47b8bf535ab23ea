"""The KL between attention masks and decoded masks, which keeps the two similar (Engelcke et al. 2021)."""

from typing import Literal

from pyro.poutine import Trace
from torch import Tensor

from pyro_sri.matching import permute_slots
from pyro_sri.nn import in_single
from pyro_sri.objectives.traces import weighed
from pyro_sri.system.choices import check_choice

MaskKL = Literal["none", "attached", "detached", "decoder"]

MASK_FLOOR = 1e-5  # minimum probability, so that the logarithms are finite


def check_mask_kl(kind: MaskKL) -> MaskKL:
    """Returns the kind.

    Raises:
        ValueError: If the kind is unknown.
    """
    check_choice(kind, MaskKL, "mask KL")
    return kind


def mask_divergence(attention_masks: Tensor, slot_masks: Tensor) -> Tensor:
    """KL(attention masks || decoded masks), summed over pixels (Engelcke et al. 2021).

    Args:
        attention_masks: Probabilities [B, K, 1, H, W].
        slot_masks: Probabilities [B, K, 1, H, W].

    Returns:
        Nats per image [B].
    """
    attention, decoded = (in_single(masks).clamp(min=MASK_FLOOR) for masks in (attention_masks, slot_masks))
    attention, decoded = (masks / masks.sum(1, keepdim=True) for masks in (attention, decoded))
    return (attention * (attention.log() - decoded.log())).sum((1, 2, 3, 4))


def read_mask_kl(kind: MaskKL, guide: Trace, model: Trace, order: Tensor | None = None) -> Tensor:
    """The KL between the guide's `attention_masks`, in the order of the model's slots, and the model's `slot_masks`.

    Args:
        kind: Where the gradient goes: to both ("attached"), only to the attention masks ("detached"), or only to the
            decoded masks ("decoder").
        guide: A run of the guide.
        model: A run of the model against it.
        order: The attention mask of each of the model's slots [B, K]. None if they are in the same order.

    Returns:
        Nats per image [B].

    Raises:
        ValueError: If the guide has no attention masks.
    """
    if "attention_masks" not in guide:
        raise ValueError(f"mask_kl='{kind}' needs a guide with a site 'attention_masks'")
    attention = guide.nodes["attention_masks"]["value"]
    if order is not None:
        attention = permute_slots(attention.flatten(2), order).view_as(attention)
    decoded = model.nodes["slot_masks"]["value"]
    divergence = mask_divergence(
        attention.detach() if kind == "decoder" else attention, decoded.detach() if kind == "detached" else decoded
    )
    return weighed(divergence, model.nodes["image"])  # weighted like the image
