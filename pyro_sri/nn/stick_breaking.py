"""Stick-breaking: attention masks from a clustering of pixel embeddings (Engelcke et al. 2021), or from logits."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sri.nn.coordinates import PixelCoordinates
from pyro_sri.nn.precision import in_single
from pyro_sri.system.choices import check_choice

Kernel = Literal["gaussian", "laplacian", "epanechnikov"]

COLOUR_DIM = 8
ALPHA_RANGE = (0.01, 0.99)  # a step never takes nothing or everything, so the logarithms are finite
SMALL_CONTRAST = 0.05  # differences from the background with half the effect
FULL_CONTRAST = 0.2  # from this difference on, a pixel is not background
LOG_EMPTY = -1e4  # the logarithm of an empty mask: finite, and its exponential is 0
DISTANCE_RANGE = (1e-10, 1e10)  # keeps the gradient of the square root finite at the seed pixel


def straight_through_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Clamps the value but does not change the gradient."""
    return x + (x.clamp(low, high) - x).detach()


ColourStart = Literal["none", "position", "picture", "contrast"]


@dataclass(frozen=True, kw_only=True)
class InstanceColours:
    """The initial pixel embeddings, and the kernel for their distances.

    The embedding of a pixel is

        none:      conv(features)
        position:  gate conv(features) + [0, .., 0, y, x]                            (semi-convolutional, as published)
        picture:   gate conv(features) + [a colour, 0, 0, 0, b y, b x]
        contrast:  gate conv(features) + [a c / (|c| + e), 0, 0, 0, b w y, b w x]

    with a learned gate, y, x in [-1, 1], the pixel's contrast c = colour - median colour of the image, and a weight
    w = min(1, |c| / W) that is 0 on the background.

    With "none", the first masks are blobs of an untrained map. With "position", they are circles around their seeds.
    With "picture" and "contrast", they are compact pieces of one colour, which is semi-convolution (Novotny et al.
    2018) in both colour and position. With "contrast", shading has little effect, the background is a single piece
    however large it is, and two objects of the same colour are separate.

    Attributes:
        start: Which of these.
        gate: Initial value of the gate.
        colour_weight: a.
        position_weight: b.
        kernel: exp(-d^2/s), exp(-d/s) or max(0, 1 - d^2/s), s = exp(log_sigma) learned.
        learn: Whether embeddings and kernel are trained. If not, the masks keep their initial form.

    Raises:
        ValueError: If the start or the kernel is unknown.
    """

    start: ColourStart = "position"
    gate: float = 0.0
    colour_weight: float = 0.9
    position_weight: float = 0.08
    kernel: Kernel = "gaussian"
    learn: bool = True

    def __post_init__(self) -> None:
        check_choice(self.start, ColourStart, "start of the instance colours")
        check_choice(self.kernel, Kernel, "kernel")


def contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """The difference of each pixel from the image's median colour, which is assumed to be the background.

    Args:
        images: [B, 3, H, W] in [0, 1].

    Returns:
        Direction of the difference [B, 3, H, W], shorter than 1 if it is small, and its weight [B, 1, H, W] in [0, 1].
    """
    median = images.flatten(2).median(2).values[:, :, None, None]  # [B, 3, 1, 1]
    difference = images - median
    size = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    return difference / (size + SMALL_CONTRAST), (size / FULL_CONTRAST).clamp(max=1)


class ColourHead(nn.Module):
    """Pixel embeddings ("instance colours"): a convolution of the features plus initial values."""

    def __init__(self, features: int, image_size: int, colours: InstanceColours = InstanceColours()) -> None:
        super().__init__()
        self.colours = colours
        self.conv = nn.Conv2d(features, COLOUR_DIM, 1)
        if colours.start != "none":
            self.gate = nn.Parameter(torch.tensor(float(colours.gate)))
            self.coordinates = PixelCoordinates(image_size)

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Features [B, F, H, W] of images [B, 3, H, W] in [0, 1] -> embeddings [B, 8, H, W]."""
        embeddings = self.conv(features)
        if self.colours.start == "none":
            return embeddings
        grid = self.coordinates.grid.expand(len(images), -1, -1, -1)  # [B, 2, H, W]
        if self.colours.start == "position":
            start = F.pad(grid, (0, 0, 0, 0, COLOUR_DIM - 2, 0))
        else:
            colour, weight = contrast(images) if self.colours.start == "contrast" else (images, 1.0)
            colour = F.pad(self.colours.colour_weight * colour, (0, 0, 0, 0, 0, COLOUR_DIM - 5))  # [B, 6, H, W]
            start = torch.cat([colour, self.colours.position_weight * weight * grid], dim=1)
        return self.gate * embeddings + start


class Clustering(NamedTuple):
    """The result of stick-breaking.

    Attributes:
        log_masks: Log attention masks [B, K, 1, H, W]; the masks sum to 1 over K.
        log_scopes: Log of the part that remains before each step [B, K, 1, H, W].
        seeds: Seed colours of the first K - 1 steps [B, K - 1, 8].
        seed_index: Their pixels, row-major [B, K - 1].
    """

    log_masks: Tensor
    log_scopes: Tensor
    seeds: Tensor
    seed_index: Tensor


class StickBreaking(nn.Module):
    """Clusters pixels by colour, with one random seed at a time. The last mask takes the rest.

    In step k, the seed is the pixel with the largest product of uniform noise and remaining scope. A kernel of the
    distance to the seed's colour determines the share alpha of the scope that mask k takes:

        m_k = s_k alpha_k,   s_{k+1} = s_k (1 - alpha_k),   m_{K-1} = s_{K-1}

    Args:
        features: Input channels F.
        image_size: Image side.
        num_slots: K for which the kernel's initial width is chosen, so that a pixel at unit distance goes to the
            first mask with probability 1/K or so.
        colours: The pixel embeddings' start and kernel.
    """

    def __init__(
        self, features: int, image_size: int, num_slots: int, colours: InstanceColours = InstanceColours()
    ) -> None:
        super().__init__()
        self.kernel = colours.kernel
        self.colour_head = ColourHead(features, image_size, colours)
        width = {
            "gaussian": 1 / (num_slots * math.log(2)),
            "laplacian": 1 / (math.sqrt(num_slots) * math.log(2)),
            "epanechnikov": 2 / num_slots,
        }[self.kernel]
        self.log_sigma = nn.Parameter(torch.tensor(width).log())

    def alpha(self, colours: Tensor, seed: Tensor) -> Tensor:
        """Kernel of the distance between colours and seed colour, before clamping.

        Args:
            colours: [B, 8, .., P].
            seed: [B, 8, .., 1].

        Returns:
            [B, .., P].
        """
        squared_distance = (colours - seed).square().sum(1)
        sigma = self.log_sigma.exp()
        if self.kernel == "gaussian":
            return torch.exp(-squared_distance / sigma)
        if self.kernel == "laplacian":
            return torch.exp(-straight_through_clamp(squared_distance, *DISTANCE_RANGE).sqrt() / sigma)
        return torch.relu(1 - squared_distance / sigma)

    def forward(self, features: Tensor, images: Tensor, uniforms: Tensor, num_slots: int) -> Clustering:
        """Clusters the pixels.

        Args:
            features: [B, F, H, W].
            images: The images of these features [B, 3, H, W] in [0, 1].
            uniforms: Random scores for choosing the seeds [B, H, W] in [0, 1), shared by all steps.
            num_slots: K, at least 1.
        """
        colours = in_single(self.colour_head(features, images)).flatten(2)  # [B, 8, P]
        index = self._pick_seeds(colours, uniforms.flatten(1), num_slots)  # [B, K - 1]
        seeds = colours.gather(2, index[:, None].expand(-1, COLOUR_DIM, -1))  # [B, 8, K - 1]
        alpha = self._shares(colours[:, :, None], seeds[..., None])  # [B, K - 1, P]
        whole = torch.zeros_like(colours[:, :1])  # [B, 1, P]
        log_scopes = torch.cat([whole, torch.log1p(-alpha).cumsum(1)], dim=1)  # [B, K, P]
        log_masks = torch.cat([log_scopes[:, :-1] + alpha.log(), log_scopes[:, -1:]], dim=1)
        shape = (-1, num_slots, 1, *features.shape[2:])
        return Clustering(log_masks.view(shape), log_scopes.view(shape), seeds.mT, index)

    @torch.no_grad()
    def _pick_seeds(self, colours: Tensor, scores: Tensor, num_slots: int) -> Tensor:
        """Chooses the pixels of the seeds one by one: colours [B, 8, P] and scores [B, P] -> [B, K - 1].

        There are no gradients, so each step needs only a few kernels. The masks are computed all at once afterwards.
        """
        log_scope = torch.zeros_like(scores)
        picked: list[Tensor] = []
        for k in range(num_slots - 1):
            if k:
                seed = colours.gather(2, picked[-1][:, None, None].expand(-1, COLOUR_DIM, 1))  # [B, 8, 1]
                log_scope = log_scope + torch.log1p(-self._shares(colours, seed))
            picked.append((scores * log_scope.exp()).argmax(1))  # [B]
        return torch.stack(picked, 1) if picked else scores.new_empty(len(scores), 0, dtype=torch.long)

    def _shares(self, colours: Tensor, seeds: Tensor) -> Tensor:
        """The share of the scope for each seed: the kernel, clamped away from 0 and 1."""
        return straight_through_clamp(self.alpha(colours, seeds), *ALPHA_RANGE)


def stop_early(clusters: Clustering, min_mass: float) -> tuple[Tensor, Tensor]:
    """The result of the clustering if each image stops at its first mask with a sum below `min_mass`.

    The mask where an image stops takes the rest instead; those after it are empty. One image then needs as many slots
    as it has masks that are not empty.

    Args:
        clusters: The clustering into K masks.
        min_mass: Minimum sum of a mask over pixels.

    Returns:
        Log masks [B, K, 1, H, W] (LOG_EMPTY in the empty ones), and the number of masks that are not empty [B].
    """
    mass = clusters.log_masks[:, :-1].exp().sum((2, 3, 4))  # [B, K - 1]
    goes_on = (mass < min_mass).cumsum(1) == 0  # [B, K - 1]
    num_masks = 1 + goes_on.sum(1)
    k = torch.arange(clusters.log_masks.shape[1], device=mass.device)[:, None, None, None]
    last = num_masks[:, None, None, None, None] - 1
    log_masks = torch.where(k < last, clusters.log_masks, clusters.log_scopes)
    return torch.where(k > last, LOG_EMPTY, log_masks), num_masks


def break_stick(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Masks from the share of the remainder that each one takes. The last one takes the rest (Engelcke et al. 2020).

        m_k = s_k sigmoid(a_k),   s_{k+1} = s_k (1 - sigmoid(a_k)),   m_{K-1} = s_{K-1}

    Args:
        logits: The shares a_k [B, K, 1, H, W]. The last one is not used for the masks.

    Returns:
        Log masks [B, K, 1, H, W], and log scopes s_0 .. s_K [B, K + 1, 1, H, W].
    """
    logits = in_single(logits)
    log_scopes = torch.cat([torch.zeros_like(logits[:, :1]), F.logsigmoid(-logits).cumsum(1)], dim=1)
    log_masks = log_scopes[:, :-2] + F.logsigmoid(logits[:, :-1])
    return torch.cat([log_masks, log_scopes[:, -2:-1]], dim=1), log_scopes
