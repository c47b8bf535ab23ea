"""AIR equals Pyro's published example: every recorded output and gradient, in float64."""

import itertools
from functools import cache
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import TraceGraph_ELBO
from pyro.poutine.messenger import Messenger

from pyro_sri.guides.air import AIRGuide
from pyro_sri.models.air import AIRModel, as_grey
from pyro_sri.nn import affine_matrix, inverse_where, place_windows, read_windows
from pyro_sri.objectives import AIR_ELBO
from pyro_sri.objectives.base import Traces
from support.golden import Golden, assert_relative

TOLERANCE = 1e-9  # of arrays recorded in float64, relative to their largest entry

OURS = {
    "decode.mlp.seq.": "model.decoder.layers.",
    "encode.mlp.seq.": "guide.encoder.layers.",
    "predict.mlp.seq.": "guide.attend.predict.",
    "embed.seq.": "guide.attend.embed.",
    "rnn.": "guide.attend.cell.",
    "h_init": "guide.attend.hidden_start",
    "c_init": "guide.attend.cell_start",
    "z_where_init": "guide.where_start",
    "z_what_init": "guide.what_start",
    "bl_predict.seq.": "guide.baseline.predict.",
    "bl_embed.seq.": "guide.baseline.embed.",
    "bl_rnn.": "guide.baseline.cell.",
    "bl_h_init": "guide.baseline.hidden_start",
    "bl_c_init": "guide.baseline.cell_start",
}
PRIORS = ("z_where_loc_prior", "z_where_scale_prior")  # fields of our model, not weights


class RecordedNoise(Messenger):
    """Draws 1 if u < p else 0, and mean + std * eps."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        self.golden = golden

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or not msg["name"].startswith("z_"):
            return
        name, _, step = msg["name"].rpartition("_")
        if name == "z_pres":
            uniforms = self.golden["noise/u_z_pres"][int(step), :, 0]
            msg["value"] = (uniforms < msg["fn"].probs).double()
        else:
            msg["value"] = msg["fn"].mean + msg["fn"].variance.sqrt() * self.golden[f"noise/eps_{name}"][int(step)]
        msg["done"] = True


class Case(NamedTuple):
    golden: Golden
    model: AIRModel
    guide: AIRGuide
    traces: Traces
    images: torch.Tensor
    parameters: dict[str, torch.Tensor]


def build(golden: Golden) -> tuple[AIRModel, AIRGuide]:
    config = golden.config

    def sizes(name: str) -> list[int]:
        return golden.arrays[f"config/{name}"].tolist()

    assert config("non_linearity") == "ReLU"
    assert config("decoder_output_use_sigmoid")
    assert config("use_masking")
    assert config("use_baselines")
    model = AIRModel(
        image_size=config("x_size"),
        num_slots=config("num_steps"),
        window_size=config("window_size"),
        code_size=config("z_what_size"),
        decoder_sizes=sizes("decoder_net"),
        decoder_bias=config("decoder_output_bias"),
        presence_prior=golden.arrays["config/z_pres_prior_p"].tolist(),
        scale_prior=(config("scale_prior_mean"), config("scale_prior_sd")),
        position_prior=(config("pos_prior_mean"), config("pos_prior_sd")),
        pixel_std=config("likelihood_sd"),
    ).double()
    guide = AIRGuide(
        model,
        hidden_size=config("rnn_hidden_size"),
        embed_sizes=sizes("embed_net"),
        predict_sizes=sizes("predict_net"),
        encoder_sizes=sizes("encoder_net"),
        baseline_sizes=sizes("bl_predict_net"),
        baseline_scale=config("baseline_scalar"),
    ).double()
    return model, guide


@cache
def case() -> Case:
    golden = Golden("air")
    model, guide = build(golden)
    ours = dict(torch.nn.ModuleDict({"model": model, "guide": guide}).named_parameters())
    parameters = {}
    with torch.no_grad():
        for name, value in golden.state().items():
            if name not in PRIORS:
                start = next(start for start in OURS if name.startswith(start))
                parameters[name] = ours.pop(OURS[start] + name.removeprefix(start))
                parameters[name].copy_(value)
    assert not ours, f"parameters that the recorded case does not set: {list(ours)}"
    images = golden["in/x"][:, None].expand(-1, 3, -1, -1)
    with pyro.settings.context(module_local_params=True), RecordedNoise(golden):
        traces = AIR_ELBO().trace(model, guide, images)
    return Case(golden, model, guide, traces, images, parameters)


def per_step(trace: Any, name: str, read: Any) -> torch.Tensor:
    """A quantity of the sites NAME_0, NAME_1, ..: [T, B, ..]."""
    names = itertools.takewhile(trace.nodes.__contains__, (f"{name}_{t}" for t in itertools.count()))
    return torch.stack([read(trace.nodes[site]) for site in names])


def value(site: Any) -> torch.Tensor:
    return site["value"]


def mean(site: Any) -> torch.Tensor:
    return site["fn"].mean


def std(site: Any) -> torch.Tensor:
    return site["fn"].variance.sqrt()


def log_prob(site: Any) -> torch.Tensor:
    return site["fn"].log_prob(site["value"])


def test_priors_are_the_recorded_ones() -> None:
    golden, model, guide, *_ = case()
    for module in (model, guide):
        assert_relative(module.where_loc, golden["state/z_where_loc_prior"], TOLERANCE)
        assert_relative(module.where_scale, golden["state/z_where_scale_prior"], TOLERANCE)


def test_draws() -> None:
    golden, *_, traces, _, _ = case()
    assert torch.equal(per_step(traces.guide, "z_pres", value), golden["sample/z_pres"][..., 0])
    assert_relative(per_step(traces.guide, "z_where", value), golden["sample/z_where"], TOLERANCE)
    assert_relative(per_step(traces.guide, "z_what", value), golden["sample/z_what"], TOLERANCE)


def test_posteriors() -> None:
    golden, *_, traces, _, _ = case()
    guide = traces.guide
    assert_relative(per_step(guide, "z_pres", mean), golden["out/guide_z_pres_p"][..., 0], TOLERANCE)
    for name in ("z_where", "z_what"):
        assert_relative(per_step(guide, name, mean), golden[f"out/guide_{name}_loc"], TOLERANCE)
        assert_relative(per_step(guide, name, std), golden[f"out/guide_{name}_scale"], TOLERANCE)


def test_log_probabilities() -> None:
    golden, *_, traces, _, _ = case()
    for side, trace in (("guide", traces.guide), ("model", traces.model)):
        for name in ("z_pres", "z_where", "z_what"):
            assert_relative(per_step(trace, name, log_prob), golden[f"out/{side}_logp_{name}"], TOLERANCE)
    assert_relative(log_prob(traces.model.nodes["image"]), golden["out/model_logp_obs"], TOLERANCE)


def test_recurrence_and_baselines() -> None:
    """Step by step with the networks themselves, where the sites do not show everything."""
    golden, _, guide, traces, images, _ = case()
    sites = traces.guide.nodes
    seen, latents = as_grey(images), guide.start(len(images))
    state, baseline_state = guide.attend.start(len(images)), guide.baseline.start(len(images))
    for t in range(golden.config("num_steps")):
        baseline, baseline_state = guide.expect(seen, latents, baseline_state)
        outputs, state = guide.attend(guide.attend.features(seen), latents, state)
        ones = torch.ones(len(images), dtype=torch.float64)
        assert_relative(guide.place_dists(outputs, ones)[0], golden["out/predict_z_pres_p"][t, :, 0], TOLERANCE)
        assert_relative(state[0], golden["out/rnn_h"][t], TOLERANCE)
        assert_relative(state[1], golden["out/rnn_c"][t], TOLERANCE)
        assert_relative(baseline_state[0], golden["out/bl_h"][t], TOLERANCE)
        assert_relative(baseline, golden["out/baseline_value"][t], TOLERANCE)
        assert_relative(sites[f"z_pres_{t}"]["infer"]["baseline"]["baseline_value"], baseline, TOLERANCE)
        latents = type(latents)(*(sites[f"{name}_{t}"]["value"] for name in ("z_where", "z_what", "z_pres")))


def test_windows_and_canvas() -> None:
    golden, model, _, traces, images, _ = case()
    presence, where, what = (per_step(traces.guide, name, value) for name in ("z_pres", "z_where", "z_what"))
    read = read_windows(as_grey(images), where, golden.config("window_size"))  # [T, B, w, w]
    assert_relative(read.flatten(2), golden["out/x_att"], TOLERANCE)
    windows = model.decoder(what)
    assert_relative(windows.flatten(2), golden["out/y_att"], TOLERANCE)
    placed = place_windows(windows, where, golden.config("x_size"))
    assert_relative(placed, golden["out/y_image"], TOLERANCE)
    site = {name: traces.model.nodes[name]["value"] for name in ("slot_rgb", "reconstruction", "slot_masks")}
    present = (placed * presence[..., None, None]).transpose(0, 1)  # [B, T, H, W]
    for channel in range(3):
        assert_relative(site["slot_rgb"][:, :, channel], present, TOLERANCE)
        assert_relative(site["reconstruction"][:, channel], golden["out/canvas"], TOLERANCE)
    assert 0 <= site["slot_masks"].min() <= site["slot_masks"].sum(1).max() <= 1 + 1e-12


def test_elbo() -> None:
    golden, *_, traces, _, _ = case()
    totals = [golden["out/guide_logp_total"], golden["out/model_logp_total"]]
    for trace, total in zip((traces.guide, traces.model), totals, strict=True):
        assert_relative(trace.log_prob_sum(), total, TOLERANCE)
    elbo = AIR_ELBO()
    terms = elbo.read(traces)
    assert_relative(-sum(terms[name].sum() for name in elbo.bound), golden["out/elbo"], TOLERANCE)
    assert_relative(-len(terms["nll"]) * elbo.objective(terms), golden["out/elbo"], TOLERANCE)


def check_gradients(gradients: dict[str, torch.Tensor]) -> None:
    golden = case().golden
    checked = golden.starting("grad/")
    assert len(checked) == 14
    for key in checked:
        assert_relative(gradients[key.removeprefix("grad/")], golden[key], TOLERANCE)
    names = golden.arrays["config/gradnorm_names"]
    for name, norm in zip(names, golden["out/gradnorm"], strict=True):
        if name in PRIORS:
            assert norm == -1
        else:
            assert_relative(gradients[str(name)].norm(), norm, TOLERANCE)


def test_gradients() -> None:
    *_, traces, images, parameters = case()
    elbo = AIR_ELBO()
    loss = len(images) * elbo.objective(elbo.read(traces))
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    check_gradients(dict(zip(parameters, found, strict=True)))


def test_gradients_of_the_stock_objective() -> None:
    """Pyro's own graph-based surrogate on our sites."""
    golden, model, guide, _, images, parameters = case()
    loss = TraceGraph_ELBO()
    for parameter in parameters.values():
        parameter.grad = None
    with pyro.settings.context(module_local_params=True), RecordedNoise(golden):
        negative_elbo = loss.loss_and_grads(model, guide, images)
    assert_relative(torch.tensor(-negative_elbo, dtype=torch.float64), golden["out/elbo"], TOLERANCE)
    check_gradients({name: parameter.grad for name, parameter in parameters.items()})


def test_spatial_transformer() -> None:
    golden = Golden("air")
    where = golden["in/stn_z_where"]
    assert_relative(inverse_where(where), golden["out/stn_z_where_inv"], TOLERANCE)
    assert_relative(affine_matrix(where), golden["out/stn_theta"], TOLERANCE)
    windows = golden["in/stn_windows"].unflatten(1, (8, 8))
    assert_relative(place_windows(windows, where, 20), golden["out/stn_window_to_image"], TOLERANCE)
    read = read_windows(golden["in/stn_images"], where, 8)
    assert_relative(read.flatten(1), golden["out/stn_image_to_window"], TOLERANCE)
