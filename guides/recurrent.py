"""A recurrent guide for the scene model: one object at a time, as in AIR (Eslami et al. 2016)."""

import pyro
import torch
from pyro.distributions import Independent
from torch import Tensor, nn

from pyro_sri.distributions import diagonal_normal, sri_scale
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import GaussianLSTM, ImageFeatures
from pyro_sri.programs import Program


class RecurrentGuide(Program):
    r"""Infers the scene variable from the image, and the slots one after another.

    .. math::
        h &= \mathrm{ConvNet}(x) \\
        s &\sim q(s \mid x) = \mathcal{N}(\mu_s, \sigma_s^2), \quad (\mu_s, \sigma_s) = \mathrm{MLP}(h) \\
        z_k &\sim q(z_k \mid z_{<k}, x) = \mathcal{N}(\mu_k, \sigma_k^2), \quad
            (\mu_k, \sigma_k) = \mathrm{LSTM}(h, z_{<k}), \quad k = 1 .. K

    The first slot has no predecessor; a learned vector is used instead. There are no masks and no matching. The guide
    settles on its own order, and the model's prior learns it.

    Sites, in the plate `scenes`: `scene` [S], `slot_0` .. `slot_{K-1}` [D].

    Args:
        model: The scene model, which gives the sizes S and D and the number of slots.
        image_size: Image side H = W, a multiple of 16.
        features: Size of the image's feature vector.
        hidden: LSTM units.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On an image size that is not a multiple of 16.
    """

    def __init__(
        self,
        model: SceneModel,
        *,
        image_size: int,
        features: int = 256,
        hidden: int = 256,
        name: str = "recurrent_guide",
    ) -> None:
        super().__init__(name, model.num_slots, model.image_size)
        slot_size, scene_size = model.slot_prior.loc.out_features, model.scene_prior.size
        self.image_features = ImageFeatures(image_size, features)
        self.scene_head = nn.Sequential(
            nn.Linear(features, scene_size), nn.GELU(), nn.Linear(scene_size, 2 * scene_size)
        )
        self.slot_posterior = GaussianLSTM(features + slot_size, hidden, slot_size)
        self.before_first = nn.Parameter(torch.zeros(slot_size))

    def scene_dist(self, features: Tensor) -> Independent:
        """q(s | x): image features [B, F] -> a distribution over [B, S]."""
        loc, raw_scale = self.scene_head(features).chunk(2, dim=-1)
        return diagonal_normal(loc, sri_scale(raw_scale))

    def forward(
        self,
        images: Tensor,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        """The inference story.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_scenes: Not used, because the images determine the number.
            num_slots: Number of slots, K if None.
            temperature: Not used, because a posterior has none. A guide takes the same arguments as its model.
        """
        with pyro.plate("scenes", len(images)):
            features = self.image_features(images)  # [B, F]
            pyro.sample("scene", self.scene_dist(features))
            slot, state = self.before_first.expand(len(images), -1), None  # [B, D]
            for k in range(self.num_slots if num_slots is None else num_slots):
                loc, raw_scale, state = self.slot_posterior(torch.cat([features, slot], 1), state)
                slot = pyro.sample(f"slot_{k}", diagonal_normal(loc, sri_scale(raw_scale)))
