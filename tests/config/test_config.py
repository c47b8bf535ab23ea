import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_sri.config import SRIConfig, from_yaml, to_yaml
from pyro_sri.config.run import STEP_NUMBERS
from pyro_sri.nn import PositionDecoder, SlotDecoder
from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO, EmorlGECO, GenesisGECO
from pyro_sri.objectives.mask_kl import mask_divergence
from pyro_sri.presets import PRESETS, find_preset
from pyro_sri.system.errors import UserError
from pyro_sri.training.schedule import learning_rate

QUICK = SRIConfig(preset="p", dataset="tetrominoes", image_size=32, num_slots=3, slot_size=8, scene_size=8)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_yaml(name: str) -> None:
    config = dataclasses.replace(PRESETS[name].config, data=Path("/some/where.h5"))
    assert from_yaml(to_yaml(config), "config.yaml") == config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sri-mog-shapestacks", ("mog", True, 0.7, 0.5655, 9, 64, 500_000)),
        ("sri-g-shapestacks", ("gaussian", False, 0.7, -0.353, 9, 64, 500_000)),
        ("sri-mog-objects_room", ("mog", True, 0.7, 0.5655, 7, 64, 500_000)),
        ("sri-g-objects_room", ("gaussian", False, 0.7, -0.353, 7, 64, 500_000)),
        ("sri-mog-clevr6", ("mog", False, 0.1, -2.265, 7, 96, 425_000)),
        ("sri-g-clevr6", ("gaussian", False, 0.7, -0.356, 7, 96, 425_000)),
    ],
)
def test_published_hyper_parameters(name: str, expected: tuple[object, ...]) -> None:
    config = find_preset(name).config
    fields = ("likelihood", "normalised", "pixel_std", "geco_target", "num_slots", "image_size", "steps")
    assert tuple(getattr(config, field) for field in fields) == expected
    assert (config.slot_size, config.scene_size, config.attention_layers) == (64, 128, 3)
    assert (config.batch_size, config.learning_rate, config.geco_step, config.geco_speedup) == (32, 1e-4, 1e-6, 10)
    assert (config.init, config.beta_init, config.decay_steps, config.matching) == ("official", 1.0, 0, "greedy")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("emorl-tetrominoes", ("gaussian", 0.3, -1.224, True, 32, "small", 200_000, 35, 4, ((0, 3),))),
        ("emorl-clevr6", ("mog", 0.1, -2.206, True, 64, "iodine", 300_000, 96, 7, ((0, 3), (100_000, 1)))),
        ("emorl-multi_dsprites", ("gaussian", 0.1, None, False, 64, "iodine", 300_000, 64, 6, ((0, 3), (100_000, 1)))),
    ],
)
def test_emorls_presets_are_those_of_its_release(name: str, expected: tuple[object, ...]) -> None:
    config = find_preset(name).config
    _, _, elbo = config.build()
    likelihood, std, target, geco, size, decoder, steps, image, slots, curriculum = expected
    assert (config.likelihood, config.pixel_std, config.normalised) == (likelihood, std, False)
    assert (config.slot_size, config.decoder, config.steps) == (size, decoder, steps)
    assert (config.image_size, config.num_slots, config.batch_size) == (image, slots, 32)
    assert tuple(elbo.curriculum) == curriculum
    assert (config.learning_rate, config.gradient_clip, config.init, config.prior) == (4e-4, 5.0, "official", "rpp")
    assert learning_rate(config, 110_000) == pytest.approx(2e-4)
    assert learning_rate(config, 60_000) == pytest.approx(4e-4 * 0.5**0.5)
    assert (elbo.geco is not None) == geco
    if geco:
        assert elbo.geco.goal == pytest.approx(target * 3 * image**2)
        assert (elbo.geco.step_size, elbo.geco.acceleration, elbo.geco.warm_start) == (1e-6, 1.0, 1_000)


def test_sri_on_emorl_is_that_of_the_paper() -> None:
    config = find_preset("sri_emorl-clevr6").config
    model, guide, elbo = config.build()
    own = elbo.segregation
    assert tuple(own.curriculum) == ((0, 2),)
    assert isinstance(own, EMORL_ELBO)
    assert isinstance(own.geco, EmorlGECO)
    assert isinstance(elbo.geco, EmorlGECO)
    assert elbo.controllers() == {"beta": elbo.geco, "beta_segregation": own.geco}
    assert isinstance(model.decoder, PositionDecoder)
    assert str(model.decoder) == str(guide.segregation.model.decoder)
    assert model.decoder is not guide.segregation.model.decoder
    assert (own.geco.goal, own.geco.acceleration) == (pytest.approx(-2.265 * 3 * 96**2), 10.0)
    assert not config.idle_parameters
    own.step = 5
    assert own.eval().refinement_steps(guide.segregation.guide) == 0
    assert own.train().refinement_steps(guide.segregation.guide) == 2


def test_a_run_of_sri_on_emorl_from_before_it_refined_is_what_it_was() -> None:
    config = dataclasses.replace(QUICK, segregation="emorl")
    new = ("segregation_objective", "decoder", "refinement_steps", "later_refinement_steps", "geco_mse", "halving")
    lines = [line for line in to_yaml(config).splitlines() if line.split(":")[0] not in new]
    old = from_yaml("\n".join(lines), "config.yaml")
    model, guide, elbo = old.build()
    names = elbo(model, guide).state_dict()
    assert {name for name in names if name.startswith("elbo.segregation")} == {
        f"elbo.segregation_geco.{name}" for name in ("beta", "error_ema", "started")
    }
    assert isinstance(model.decoder, SlotDecoder)
    assert "segregation_nll_0" not in elbo.terms(model, guide, torch.rand(2, 3, 32, 32))
    assert from_yaml(to_yaml(old), "config.yaml") == old


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("sri-mog-shapestacks", {"normalised": False}, "met by a grey image"),
        ("sri-mog-shapestacks", {"pixel_std": 1.0}, "never be met: the NLL is above 0.9189"),
        ("sri-g-clevr6", {"normalised": True}, "never be met"),
        ("genesis_v2-g-shapestacks", {"geco_target": -0.36}, "never be met"),
        ("genesis-shapestacks", {"pixel_std": 1.0, "first_pixel_std": 1.0}, "never be met"),
        ("genesis-shapestacks", {"first_pixel_std": 0.2, "geco_target": -0.7}, "--first-pixel-std 0.2"),
        ("genesis-shapestacks", {"first_pixel_std": 0.2, "geco_mse": 0.3}, "met by a grey image"),
        ("recurrent-mog-shapestacks", {"normalised": False}, "met by a grey image"),
        ("emorl-clevr6", {"pixel_std": 0.2}, "never be met"),
        ("sri_emorl-clevr6", {"normalised": True}, "never be met"),
        ("sri-quick", {"geco_mse": 0.3}, "--geco-mse 0.3 is met by a grey image"),
    ],
)
def test_a_goal_that_nothing_or_anything_meets_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    config = PRESETS[name].config
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(config, **fields)
    assert "--geco-mse" in str(caught.value)
    assert "\n" not in str(caught.value)
    without = {"geco": False if config.system == "emorl" else "none"}
    assert not dataclasses.replace(config, **fields, **without).uses_geco  # nothing aims at it


@pytest.mark.parametrize("name", ["sri-mog-shapestacks", "genesis-shapestacks", "sri_emorl-clevr6", "emorl-clevr6"])
def test_a_goal_given_as_an_error_follows_the_likelihood(name: str) -> None:
    config = dataclasses.replace(PRESETS[name].config, geco_mse=0.002)
    for fields in ({}, {"pixel_std": 0.3}, {"normalised": not config.normalised}):
        changed = dataclasses.replace(config, **fields)
        _, _, elbo = changed.build()
        likelihood = changed.image_likelihood()
        image = torch.full((1, 3, changed.image_size, changed.image_size), 0.5)
        painted = (image + 0.002**0.5)[:, None].expand(-1, 2, -1, -1, -1)
        masks = torch.full_like(painted[:, :, :1], 0.5).log()
        nll = -dataclasses.replace(likelihood, first_pixel_std=None)(painted, masks).log_prob(image)
        assert elbo.geco.goal == pytest.approx(nll.item(), rel=1e-4)
        assert changed.goal_mse == 0.002
    assert PRESETS["sri-mog-shapestacks"].config.goal_mse == pytest.approx(0.0032, abs=1e-4)


def test_a_goal_for_two_standard_deviations_is_that_of_the_best_slot() -> None:
    config = dataclasses.replace(PRESETS["genesis-shapestacks"].config, first_pixel_std=0.1, geco_target=0.5655)
    assert config.goal_mse == pytest.approx(2 * 0.1**2 * (0.5655 - math.log(0.1 * math.sqrt(2 * math.pi))))


def test_runs_from_before_goals_were_checked_still_open() -> None:
    text = to_yaml(PRESETS["emorl-tetrominoes"].config)
    assert "geco_unreachable: true" in text
    assert from_yaml(text.replace("geco_unreachable: true\n", ""), "config.yaml").geco_unreachable
    with pytest.raises(UserError, match="never be met"):
        from_yaml(text.replace("geco_unreachable: true", "geco_unreachable: false"), "config.yaml")


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sri-mog-clevr6'"):
        find_preset("sri-mog-clevr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not YAML"),
        ("just words", "names no system"),
        ("system: sry", "did you mean 'sri'"),
        ("system: sri\npreset: p\ndataset: d\nnum_slot: 3", "did you mean 'num_slots'"),
        ("system: sri\ndataset: d", "has no field 'preset'"),
        ("system: sri\npreset: p\ndataset: d\nnum_slots: many", "must be of type int"),
        ("system: sri\npreset: p\ndataset: d\nnum_slots: true", "must be of type int"),
        ("system: sri\npreset: p\ndataset: d\nlearning_rate: fast", "must be of type float"),
        ("system: sri\npreset: p\ndataset: d\nkernel: square", "must be one of gaussian, laplacian, epanechnikov"),
        (to_yaml(QUICK).replace("num_slots: 3", "num_slots: 0"), "--num-slots is 0"),
        (to_yaml(QUICK).replace("dataset: tetrominoes\n", ""), "has no field 'dataset'"),
        ("system: [sri]", "names an unknown system"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_bad_yaml_is_one_plain_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_yaml(text, "config.yaml")
    assert "\n" not in str(caught.value)


def test_exponents_without_a_point_are_numbers() -> None:
    text = to_yaml(QUICK).replace("learning_rate: 0.0001", "learning_rate: 1e-4")
    assert "1e-4" in text
    assert from_yaml(text, "config.yaml").learning_rate == 1e-4


@pytest.mark.parametrize(
    "fields",
    [
        {"num_slots": 0},
        {"pixel_std": 0.0},
        {"pixel_std": -1.0},
        {"pixel_std": float("nan")},
        {"steps": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"slot_size": 12},
        {"slot_size": 72},
        {"image_size": 48},
        {"beta_init": 0.0},
        {"beta_min": 5.0, "beta_max": 1.0},
        {"learning_rate": float("inf")},
        {"ema": 1.0},
        {"ema": -0.1},
        {"geco_target": float("nan")},
        {"posterior_scale_init": 1e30},
    ],
)
def test_impossible_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be") as caught:
        dataclasses.replace(QUICK, **fields)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--")


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_impossible_seeds_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="--seed"):
        dataclasses.replace(QUICK, seed=seed)


def test_build_follows_the_fields() -> None:
    model, guide, objective = dataclasses.replace(QUICK, geco="emorl", attention_layers=1, share_decoder=True).build()
    assert isinstance(objective, SRI_ELBO)
    assert isinstance(objective.geco, EmorlGECO)
    assert len(guide.scene_encoder.blocks) == 1
    assert guide.segregation.model.decoder is model.decoder
    assert dataclasses.replace(QUICK, geco="none").build()[2].geco is None
    geco = dataclasses.replace(QUICK, beta_init=0.1, beta_max=1.0).build()[2].geco
    assert isinstance(geco, GenesisGECO)
    assert geco.beta.item() == pytest.approx(0.1)
    assert geco.beta_range[1] == 1.0


def test_emorl_in_sri_can_share_its_decoder_and_the_scene_model_follows_its_attention() -> None:
    fields = {"segregation": "emorl", "share_decoder": True, "mask_kl": "decoder", "segregation_steps": 1}
    config = SRIConfig(preset="p", dataset="d", image_size=32, num_slots=2, slot_size=8, scene_size=4, **fields)
    model, guide, objective = config.build()
    assert guide.segregation.model.decoder is model.decoder
    images = torch.rand(2, 3, 32, 32)
    assert "mask_kl" not in objective.terms(model, guide, images)
    objective.step = 1
    terms = objective.terms(model, guide, images)
    losses = [objective.objective(terms | {"mask_kl": torch.full((2,), nats)}) for nats in (0.0, 100.0)]
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(100.0), rtol=1e-3, atol=0)


def test_the_mask_kl_of_emorl_under_a_bound_compares_segregated_slots() -> None:
    fields = {"segregation": "emorl", "segregation_objective": "bound", "mask_kl": "decoder", "init": "pytorch"}
    config = SRIConfig(preset="p", dataset="d", image_size=32, num_slots=5, slot_size=8, scene_size=4, **fields)
    model, guide, objective = config.build()
    traces = objective.trace(model, guide, torch.rand(3, 3, 32, 32))
    masks = traces.guide.nodes["attention_masks"]["value"], traces.segregation.nodes["slot_masks"]["value"]
    torch.testing.assert_close(objective.read(traces)["segregation_mask_kl"], mask_divergence(*masks))
    assert (traces.guide.nodes["order"]["value"] != torch.arange(5)).any()


def test_fields_that_a_run_was_made_without_have_their_defaults() -> None:
    text = to_yaml(QUICK).replace("attention_layers: 3\n", "")
    assert text != to_yaml(QUICK)
    assert from_yaml(text, "config.yaml") == QUICK


@pytest.mark.parametrize(("old", "new"), [("true", "position"), ("false", "none")])
def test_fields_under_their_old_names(old: str, new: str) -> None:
    text = to_yaml(QUICK).replace(f"colour_start: {QUICK.colour_start}\n", f"semiconv: {old}\n")
    assert from_yaml(text, "config.yaml") == dataclasses.replace(QUICK, colour_start=new)
    with pytest.raises(UserError, match="semiconv"):
        from_yaml(f"{text}colour_start: none\n", "config.yaml")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_file(name: str) -> None:
    config = PRESETS[name].config
    assert from_yaml(to_yaml(config), "config.yaml") == config
    assert config.tiny().image_size == min(config.image_sizes)


def test_a_schedule_keeps_its_shares_of_a_run() -> None:
    quick = dataclasses.replace(
        QUICK, steps=1000, segregation_steps=750, warmup_steps=5, decay_steps=1000, geco_step=1e-6, halving_steps=0
    )
    short = quick.stretched(100)
    assert (short.steps, short.segregation_steps, short.warmup_steps, short.decay_steps) == (100, 75, 1, 100)
    assert short.halving_steps == 0  # never
    assert short.geco_step == pytest.approx(1e-5)
    assert quick.stretched(3).warmup_steps == 1
    assert quick.stretched(1000) == quick
    assert quick.stretched(0) == dataclasses.replace(quick, steps=0)
    others = dataclasses.asdict(quick) | short.schedule() | {"steps": 100}
    assert dataclasses.asdict(short) == others


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_steps_is_part_of_the_schedule_or_of_the_bookkeeping(name: str) -> None:
    """A field of another system must not be forgotten when a run is shortened."""
    config = PRESETS[name].config
    numbers = {field.name for field in dataclasses.fields(config) if field.name.endswith("_steps")}
    assert numbers <= {*STEP_NUMBERS, "refinement_steps", "later_refinement_steps"}
    short = config.stretched(config.steps // 10)
    assert {name: short.schedule()[name] for name in config.schedule() if name in STEP_NUMBERS} == {
        name: value // 10 for name, value in config.schedule().items() if name in STEP_NUMBERS
    }


def test_a_scene_model_that_no_step_trained() -> None:
    config = dataclasses.replace(QUICK, segregation_steps=10)
    assert config.untrained(11) is None
    assert config.untrained(10) == (
        "the scene model is untrained: all 10 steps train only the segregation (--segregation-steps 10)"
    )
    assert QUICK.untrained(0) is None  # it was never meant to wait
    assert dataclasses.replace(config, start_from="other").untrained(10) is None
