"""Attend, Infer, Repeat, and its differential form: the guides of AIR and DAIR (Eslami et al. 2016)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import Bernoulli
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_sri.models.air import AIRModel, as_grey, normal_if
from pyro_sri.nn import (
    SCALE_FLOOR,
    WHERE_SIZE,
    Latents,
    State,
    StepLSTM,
    WindowDecoder,
    WindowEncoder,
    in_single,
    place_windows,
)
from pyro_sri.programs import Program


class Objects(NamedTuple):
    """The objects that a guide finds most likely, step by step.

    Attributes:
        presence: Whether there is an object, bool [B, T]. After the first False, all are False.
        where: Scale, x and y [B, T, 3]; meaningless if there is no object.
        what: Codes [B, T, code_size]; also meaningless if there is no object.
    """

    presence: Tensor
    where: Tensor
    what: Tensor

    @property
    def counts(self) -> Tensor:
        """Objects per image, int64 [B]."""
        return self.presence.sum(1)


class MostLikely(Messenger):
    """Sets every site to a value instead of drawing it: the more likely value of a bit, otherwise the mean."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        mean = msg["fn"].mean
        msg["value"] = (mean > 0.5).to(mean) if isinstance(msg["fn"], Bernoulli) else mean
        msg["done"] = True


class AIRGuide(Program):
    r"""Attends to one object at a time: is there another, where is it, what is it?

    .. math::
        h_t, p_t, \mu_t, \sigma_t &= \mathrm{LSTM}(\Delta x_t, z_{t-1}, h_{t-1}) \\
        z^{pres}_t &\sim \mathrm{Bernoulli}(p_t\, z^{pres}_{t-1}) \\
        z^{where}_t &\sim \mathcal{N}(\mu_t, \sigma_t^2) \\
        z^{what}_t &\sim \mathcal{N}(\mathrm{MLP}(\mathrm{read}(\Delta x_t, z^{where}_t)))

    At every step AIR sees the image, :math:`\Delta x_t = x`. With `differential`, it is DAIR and sees what is
    unexplained, :math:`\Delta x_t = x - \sum_{i<t} z^{pres}_i y_i` with the model's windows :math:`y_i` (as constants).
    Each step then has the same task, and the guide can infer counts that did not occur in training.

    Sites, in the plate `scenes`: `z_pres_t` [], `z_where_t` [3], `z_what_t` [code_size], t = 0 .. T-1; the last two are
    scored only where z_pres_t = 1. With `baseline_scale`, each `z_pres_t` carries a baseline for score-function
    gradients. It depends on the image and on earlier latents, and `TraceGraph_ELBO` and `AIR_ELBO` use it.

    Args:
        model: The AIR model; the guide uses its decoder for DAIR, without owning it.
        hidden_size: LSTM units.
        embed_sizes: Widths of the layers that the image goes through before the LSTM.
        predict_sizes: Widths of the hidden layers from the LSTM to presence and place.
        encoder_sizes: Widths of the hidden layers from the window to its code.
        differential: Whether this is DAIR.
        baseline_sizes: Widths of the hidden layers from the baseline's LSTM to its output.
        baseline_scale: Factor on the baseline network's output. None means no baseline.
        name: Root of the parameters' names in Pyro's store.
    """

    where_loc: Tensor
    where_scale: Tensor

    record = AIRModel.record

    def __init__(
        self,
        model: AIRModel,
        *,
        hidden_size: int = 256,
        embed_sizes: Sequence[int] = (256,),
        predict_sizes: Sequence[int] = (),
        encoder_sizes: Sequence[int] = (200,),
        differential: bool = False,
        baseline_sizes: Sequence[int] = (200,),
        baseline_scale: float | None = None,
        name: str = "air_guide",
    ) -> None:
        super().__init__(name, model.num_slots, model.image_size)
        code_size = model.what_prior.size
        self.differential = differential
        self.baseline_scale = baseline_scale
        self._linked = (model.decoder,)  # a tuple hides it from module registration: the model owns it
        self.register_buffer("where_loc", model.where_loc.clone(), persistent=False)
        self.register_buffer("where_scale", model.where_scale.clone(), persistent=False)
        self.encoder = WindowEncoder(model.decoder.window_size, encoder_sizes, code_size)
        self.where_start = nn.Parameter(torch.zeros(1, WHERE_SIZE))
        self.what_start = nn.Parameter(torch.zeros(1, code_size))
        shape = (model.image_size, embed_sizes, code_size, hidden_size)
        self.attend = StepLSTM(*shape, predict_sizes, 1 + 2 * WHERE_SIZE)
        self.baseline = StepLSTM(*shape, baseline_sizes, 1) if baseline_scale is not None else None

    @property
    def decoder(self) -> WindowDecoder:
        """The model's decoder of windows."""
        return self._linked[0]

    def place_dists(self, outputs: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The LSTM's outputs [B, 7] -> presence probability [B] and mean and scale of z_where [B, 3].

        The first is 0 if the object `before` [B] was already absent.
        """
        presence, loc, raw_scale = in_single(outputs).split([1, WHERE_SIZE, WHERE_SIZE], -1)
        probability = torch.sigmoid(presence[:, 0]).nan_to_num() * before  # a GPU that draws from NaN stops for good
        return probability, self.where_loc + loc, self.where_scale * F.softplus(raw_scale).clamp(min=SCALE_FLOOR)

    def start(self, num_scenes: int) -> Latents:
        """The latents of a step before the first: learned z_where and z_what, z_pres = 1."""
        where, what = self.where_start, self.what_start
        return Latents(where.expand(num_scenes, -1), what.expand(num_scenes, -1), where.new_ones(num_scenes))

    def draw(self, latents: Latents) -> Tensor:
        """The model's picture of one step's object [B, H, W], as a constant; black where it is absent."""
        with torch.no_grad():
            windows = self.decoder(latents.what)
            return latents.presence[:, None, None] * place_windows(windows, latents.where, self.image_size)

    def expect(self, seen: Tensor, before: Latents, state: State) -> tuple[Tensor, State]:
        """The baseline of a step: the expected return [B], which is 0 if the object before was absent, and the next
        state.

        Args:
            seen: The grey image that the guide sees [B, H, W].
            before: Latents of the step before, which get no gradients.
            state: State of the baseline's LSTM.
        """
        assert self.baseline is not None
        assert self.baseline_scale is not None
        before = before.detach()
        value, state = self.baseline(self.baseline.features(seen), before, state)
        return self.baseline_scale * before.presence * value[:, 0], state

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
            num_slots: The largest number of objects, T if None.
            temperature: Not used, because a posterior has none. A guide takes the same arguments as its model.
        """
        with pyro.plate("scenes", len(images)):
            seen = as_grey(images)  # [B, H, W]
            features = self.attend.features(seen)
            latents = self.start(len(images))
            state = self.attend.start(len(images))
            baseline_state = None if self.baseline is None else self.baseline.start(len(images))
            for t in range(self.num_slots if num_slots is None else num_slots):
                if self.differential and t > 0:
                    seen = seen - self.draw(latents)
                    features = self.attend.features(seen)
                infer: dict[str, Any] = {}
                if baseline_state is not None:
                    baseline, baseline_state = self.expect(seen, latents, baseline_state)
                    infer["baseline"] = {"baseline_value": baseline}
                outputs, state = self.attend(features, latents, state)
                probability, loc, scale = self.place_dists(outputs, latents.presence)
                presence = pyro.sample(f"z_pres_{t}", Bernoulli(probability), infer=infer)  # [B]
                where = pyro.sample(f"z_where_{t}", normal_if(presence, loc, scale))  # [B, 3]
                code_loc, code_scale = self.encoder(seen, where)
                what = pyro.sample(f"z_what_{t}", normal_if(presence, code_loc, code_scale))  # [B, code_size]
                latents = Latents(where, what, presence)

    @torch.no_grad()
    def find_objects(self, images: Tensor, num_slots: int | None = None) -> Objects:
        """The objects that the guide finds without randomness: at each step, the more likely presence, and mean place
        and code.

        Args:
            images: [B, 3, H, W] in [0, 1].
            num_slots: The largest number of objects, T if None.
        """
        with poutine.trace() as recorder, MostLikely():
            self(images, num_slots=num_slots)
        nodes = recorder.trace.nodes
        presence, where, what = (
            torch.stack([nodes[site]["value"] for site in latents.names(nodes)], 1) for latents in self.record.latents
        )
        return Objects(presence.bool(), where, what)
