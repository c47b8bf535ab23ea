"""The presets: published hyper-parameters, named after their data, and small ones for a laptop."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from pyro_sri.config import (
    NOT_OPTIONS,
    AIRConfig,
    EMORLConfig,
    GenesisConfig,
    GenesisV2Config,
    RecurrentConfig,
    RunConfig,
    SlotAttentionConfig,
    SRIConfig,
    flag,
    nearest,
)
from pyro_sri.config.own import suited
from pyro_sri.data.look import Look
from pyro_sri.system.errors import UserError

Fields = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A named configuration of a run.

    Attributes:
        config: The configuration.
        summary: A description in one line.
        needs: The data and time it needs, in one line.
        makes_data: Arguments of `data make` if the run makes its own data. None if the user must give a file.
        data_name: The name of that data file. None means the name of the preset.
        suits_data: Whether fields that are not given are chosen from the data (`suited_to`).
    """

    config: RunConfig
    summary: str
    needs: str
    makes_data: dict[str, Any] | None = None
    data_name: str | None = None
    suits_data: bool = False

    def suited_to(self, look: Look, gpu: bool) -> "Preset":
        """A copy with fields chosen from the data, or the preset itself if its fields do not depend on the data.

        Args:
            look: Properties of the data.
            gpu: Whether there is a GPU to train on.
        """
        if not self.suits_data or not isinstance(self.config, SRIConfig):
            return self
        return replace(self, config=suited(self.config, look, gpu))

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """The fields in which the preset differs from its system's defaults: its value and the default."""
        defaults = {field.name: field.default for field in fields(self.config) if field.default is not MISSING}
        values = {name: getattr(self.config, name) for name in defaults}
        return {name: (values[name], default) for name, default in defaults.items() if values[name] != default}

    def sized(self, image_size: int) -> "Preset":
        """A copy for another image size, if the preset makes its own data."""
        usual = self.config.image_size
        if self.makes_data is None or image_size == usual:
            return self
        name = (self.data_name or self.config.preset).removesuffix(f"-{usual}")
        return replace(self, makes_data={**self.makes_data, "size": image_size}, data_name=f"{name}-{image_size}")

    def tiny(self) -> "Preset":
        """A copy that runs in seconds, on a few images that it makes."""
        config = replace(self.config.tiny(), dataset="towers") if self.suits_data else self.config.tiny()
        data = {"size": config.image_size, "train": 8, "val": 2, "test": 2}
        return replace(
            self,
            config=config,
            makes_data=data,
            data_name=f"tiny-{config.dataset}-{config.image_size}",
            suits_data=False,
        )


_MOG: Fields = {"likelihood": "mog", "pixel_std": 0.7, "normalised": True, "geco_target": 0.5655}
_GAUSSIAN: Fields = {"likelihood": "gaussian", "pixel_std": 0.7, "normalised": False, "geco_target": -0.353}
_MOG_CLEVR6: Fields = {"likelihood": "mog", "pixel_std": 0.1, "normalised": False, "geco_target": -2.265}

_STACKS: Fields = {"dataset": "stacks", "image_size": 64, "num_slots": 9}
_ROOMS: Fields = {"dataset": "rooms", "image_size": 64, "num_slots": 7}
_CLEVR6: Fields = {"dataset": "clevr6", "image_size": 96, "num_slots": 7}

_TETROMINOES: Fields = {"dataset": "tetrominoes", "image_size": 35, "num_slots": 4}
_DSPRITES: Fields = {"dataset": "multi_dsprites", "image_size": 64, "num_slots": 6}

_NEEDS_TETROMINOES = "tetrominoes at 35x35, generated ('pyro-sri data make tetrominoes') or converted from Tetrominoes"
_NEEDS_DSPRITES = "multi_dsprites at 64x64, generated ('pyro-sri data make multi_dsprites') or converted"
_NEEDS_STACKS = "stacks at 64x64, generated ('pyro-sri data make stacks') or converted from ShapeStacks"
_NEEDS_ROOMS = "rooms at 64x64, generated ('pyro-sri data make rooms') or converted from Objects Room"
_NEEDS_CLEVR6 = "clevr6 at 96x96, generated ('pyro-sri data make clevr6') or converted from CLEVR with masks"
_AUTHORS_TIME = "the authors took 20 h on two A100"
_GENESIS_GECO: Fields = {"geco_step": 1e-5}  # ten times SRI's
_EMORL_SCHEDULE: Fields = {
    "learning_rate": 4e-4,
    "gradient_clip": 5.0,
    "warmup_steps": 10_000,
    "halving_steps": 100_000,
    "halving": "smooth",
}
# As in EMORL's release: no speed-up, the same step for all image sizes, and the plain ELBO first.
_EMORL_GECO: Fields = {"geco_speedup": 1.0, "geco_scaled": False, "geco_warm_start": 1_000}
_LATER_ONCE: Fields = {"later_refinement_steps": 1, "refinement_drop": 100_000}
_EMORL_TETROMINOES: Fields = {"slot_size": 32, "decoder": "small", "steps": 200_000}

# For a laptop. docs/quick.md explains the choices.
_QUICK: Fields = {
    "slot_size": 16,
    "lstm_units": 256,
    "init": "pytorch",
    "likelihood": "gaussian",
    "pixel_std": 0.05,
    "geco_target": -1.12,
    "geco_step": 1e-5,
    "beta_init": 0.01,
    "beta_min": 0.01,
    "beta_max": 1.0,
    "colour_start": "picture",
    "learn_masks": False,
    "coordinates": True,
    "posterior_scale_init": 0.05,
    "mask_kl": "decoder",
    "ema": 0.999,
    "steps": 9_000,
    "batch_size": 16,
    "threads": 1,
    "optimizer": "muon",
    "learning_rate": 2.5e-3,
    "warmup_steps": 100,
    "decay_steps": 9_000,
    "log_every": 100,
    "validate_every": 1_000,
    "picture_every": 2_000,
    "checkpoint_every": 500,
}
# First only the segregation, then all stages, then only the prior, with many cheap steps.
_QUICK_SRI: Fields = {
    "scene_size": 64,
    "scene_width": 64,
    "share_decoder": True,
    "segregation_steps": 4_600,
    "prior_from": 5_200,
    "decay_steps": 5_200,
}
_QUICK_DATA: Fields = {"size": 32, "train": 20_000, "val": 256, "test": 1_000}
_TOWERS: Fields = {"dataset": "towers", "image_size": 32, "num_slots": 6}
_QUICK_TETROMINOES: Fields = {
    "dataset": "tetrominoes",
    "image_size": 32,
    "num_slots": 4,
    "colour_start": "contrast",
    "position_weight": 0.45,
    "learn_masks": True,
    "mask_kl": "attached",
    "pixel_std": 0.06,
    "geco_target": -1.23,
    "segregation_steps": 3_000,
    "prior_from": 3_600,
    "decay_steps": 3_600,
    "steps": 7_200,
}

# EMORL by itself and in SRI, at a size that one core trains in half an hour. All settings are our own.
_QUICK_EMORL: Fields = {
    "slot_size": 32,
    "init": "pytorch",
    "likelihood": "gaussian",
    "pixel_std": 0.05,
    "normalised": True,
    "posterior_scale_init": 0.1,
    "geco_mse": 0.003,
    "geco_scaled": False,
    "geco_step": 5e-6,
    "geco_speedup": 100.0,
    "refinement_steps": 1,
    "later_refinement_steps": 0,
    "refinement_drop": 1_500,
    "ema": 0.999,
    "batch_size": 16,
    "learning_rate": 1.5e-3,
    "gradient_clip": 5.0,
    "warmup_steps": 200,
    "threads": 1,
    "log_every": 100,
    "validate_every": 500,
    "picture_every": 1_000,
    "checkpoint_every": 250,
}


def _sri(name: str, summary: str, needs: str, **fields: Any) -> Preset:
    return Preset(SRIConfig(preset=name, **fields), summary, needs)


def _genesis_v2(name: str, what: str, needs: str, fields: Fields) -> Preset:
    config = GenesisV2Config(preset=f"genesis_v2-{name}", **fields, **_GENESIS_GECO)
    return Preset(config, f"GENESIS-v2 (Engelcke et al. 2021), {what}", needs)


def _genesis(name: str, what: str, needs: str, fields: Fields) -> Preset:
    config = GenesisConfig(preset=f"genesis-{name}", **fields, **_MOG, **_GENESIS_GECO)
    return Preset(config, f"GENESIS (Engelcke et al. 2020), {what}", needs)


def _emorl(name: str, what: str, needs: str, fields: Fields) -> Preset:
    shared: Fields = {"likelihood": "gaussian", "normalised": False, "steps": 300_000, "decoder": "iodine"}
    config = EMORLConfig(preset=f"emorl-{name}", **(shared | _EMORL_SCHEDULE | _EMORL_GECO | fields))
    return Preset(config, f"EMORL (Emami et al. 2021), {what}", needs)


def _slot_attention(name: str, what: str, needs: str, fields: Fields) -> Preset:
    config = SlotAttentionConfig(preset=f"slot_attention-{name}", **_EMORL_SCHEDULE, **fields)
    return Preset(config, f"Slot Attention auto-encoder (Locatello et al. 2020), {what}", needs)


def _air(name: str, what: str, fields: Fields) -> Preset:
    config = AIRConfig(
        preset=f"{name}-multi_digits",
        dataset="multi_digits",
        image_size=50,
        steps=3_000,
        batch_size=64,
        learning_rate=1e-3,
        decay_steps=3_000,
        log_every=100,
        validate_every=500,
        picture_every=500,
        checkpoint_every=500,
        **fields,
    )
    needs = "makes its own data (0 to 2 digits, 50x50); five minutes on one core"
    data = {"train": 40_000, "val": 512, "test": 3_000}
    return Preset(config, f"{what}, 0 to 2 real digits; our settings", needs, data, data_name="multi_digits")


PRESETS: dict[str, Preset] = {
    preset.config.preset: preset
    for preset in (
        Preset(
            SRIConfig(preset="sri-quick", **_TOWERS, **(_QUICK | _QUICK_SRI)),
            "SRI on small flat towers, for a laptop: separates objects and generates scenes in a learnt order",
            "makes its own data (32x32); 12 minutes on a fast core; weights are bundled",
            makes_data=_QUICK_DATA,
            data_name="towers",
        ),
        Preset(
            SRIConfig(preset="sri-quick-tetrominoes", **(_QUICK | _QUICK_SRI | _QUICK_TETROMINOES)),
            "SRI on small images of three Tetrominoes",
            "makes its own data (32x32); 8 minutes on a fast core",
            makes_data=_QUICK_DATA,
            data_name="tetrominoes-32",
        ),
        Preset(
            GenesisV2Config(preset="genesis_v2-quick", **_TOWERS, **_QUICK),
            "GENESIS-v2 on the same towers, with all options of sri-quick that apply: a baseline",
            "makes its own data (32x32); 14 minutes on a fast core",
            makes_data=_QUICK_DATA,
            data_name="towers",
        ),
        Preset(
            SRIConfig(
                preset="sri-own", dataset="own", image_size=64, num_slots=7, geco_mse=0.0048, **(_QUICK | _QUICK_SRI)
            ),
            "SRI on your own data: chooses slots, likelihood and steps from the images ('pyro-sri data suggest F.h5')",
            "a file of square images of 32, 64, 96 or 128 pixels ('pyro-sri data convert')",
            suits_data=True,
        ),
        Preset(
            EMORLConfig(
                preset="emorl-quick",
                **_TOWERS,
                **_QUICK_EMORL,
                features="picture",
                decoder="genesis_v2",
                steps=3_000,
                decay_steps=3_000,
            ),
            "EMORL on the same towers, with features and a decoder for short trainings (docs/results.md)",
            "makes its own data (32x32); 25 minutes on one core",
            makes_data=_QUICK_DATA,
            data_name="towers",
        ),
        Preset(
            SRIConfig(
                preset="sri_emorl-quick",
                **_TOWERS,
                **_QUICK_EMORL,
                segregation="emorl",
                segregation_features="picture",
                segregation_decoder="genesis_v2",
                share_decoder=True,
                mask_kl="decoder",
                geco="emorl",
                scene_size=64,
                scene_width=64,
                lstm_units=256,
                segregation_steps=3_000,
                prior_from=4_000,
                decay_steps=4_000,
                steps=7_000,
            ),
            "SRI on EMORL on the same towers",
            "makes its own data (32x32); 40 minutes on one core",
            makes_data=_QUICK_DATA,
            data_name="towers",
        ),
        _sri(
            "sri-mog-shapestacks",
            "SRI, mixture likelihood, towers of blocks (Emami et al. 2023, table 2)",
            f"{_NEEDS_STACKS}; {_AUTHORS_TIME}",
            **_STACKS,
            **_MOG,
        ),
        _sri(
            "sri-g-shapestacks",
            "SRI, Gaussian likelihood, towers of blocks (table 2 and the ablations)",
            f"{_NEEDS_STACKS}; {_AUTHORS_TIME}",
            **_STACKS,
            **_GAUSSIAN,
        ),
        _sri(
            "sri-mog-objects_room",
            "SRI, mixture likelihood, rooms with 1 to 3 objects (table 2)",
            f"{_NEEDS_ROOMS}; {_AUTHORS_TIME}",
            **_ROOMS,
            **_MOG,
        ),
        _sri(
            "sri-g-objects_room",
            "SRI, Gaussian likelihood, rooms with 1 to 3 objects (table 2)",
            f"{_NEEDS_ROOMS}; {_AUTHORS_TIME}",
            **_ROOMS,
            **_GAUSSIAN,
        ),
        _sri(
            "sri-mog-clevr6",
            "SRI, mixture likelihood, 3 to 6 CLEVR objects; our choice of likelihood and target, as for GENESIS-v2",
            _NEEDS_CLEVR6,
            **_CLEVR6,
            **_MOG_CLEVR6,
            steps=425_000,
        ),
        _sri(
            "sri-g-clevr6",
            "SRI, Gaussian likelihood, 3 to 6 CLEVR objects (table 2)",
            _NEEDS_CLEVR6,
            **_CLEVR6,
            **(_GAUSSIAN | {"geco_target": -0.356}),
            steps=425_000,
        ),
        _sri(
            "sri_emorl-clevr6",
            "SRI on EMORL, two refinement steps in training, 3 to 6 CLEVR objects (table 2)",
            f"{_NEEDS_CLEVR6}; the authors took 27 h on eight A100",
            **_CLEVR6,
            segregation="emorl",
            segregation_decoder="iodine",
            likelihood="gaussian",
            pixel_std=0.1,
            normalised=False,
            geco="emorl",
            geco_target=-2.265,
            steps=225_000,
            **_EMORL_SCHEDULE,
            **(_EMORL_GECO | {"geco_speedup": 10.0}),
        ),
        _sri(
            "sri_sa-shapestacks",
            "SRI-SA*, a Slot Attention encoder with learnt slots, towers of blocks (table 1); with our own matching",
            _NEEDS_STACKS,
            **_STACKS,
            **_MOG,
            segregation="slot_attention",
        ),
        _sri(
            "genesis_v2_scene-mog-shapestacks",
            "GENESIS-v2 with a scene variable in front of its slots, towers of blocks (table 4)",
            _NEEDS_STACKS,
            **_STACKS,
            **_MOG,
            end_to_end=True,
            align=False,
        ),
        _genesis_v2("mog-shapestacks", "mixture likelihood, towers of blocks", _NEEDS_STACKS, _STACKS | _MOG),
        _genesis_v2("g-shapestacks", "Gaussian likelihood, towers of blocks", _NEEDS_STACKS, _STACKS | _GAUSSIAN),
        _genesis_v2("mog-objects_room", "mixture likelihood, rooms", _NEEDS_ROOMS, _ROOMS | _MOG),
        _genesis_v2("g-objects_room", "Gaussian likelihood, rooms", _NEEDS_ROOMS, _ROOMS | _GAUSSIAN),
        _genesis_v2("mog-clevr6", "mixture likelihood, 3 to 6 CLEVR objects", _NEEDS_CLEVR6, _CLEVR6 | _MOG_CLEVR6),
        _genesis("shapestacks", "towers of blocks", _NEEDS_STACKS, _STACKS),
        _genesis("objects_room", "rooms", _NEEDS_ROOMS, _ROOMS),
        Preset(
            GenesisConfig(preset="genesis_scene-shapestacks", **_STACKS, **_MOG, **_GENESIS_GECO, scene_size=128),
            "GENESIS with a scene variable, towers of blocks (Emami et al. 2023, table 4)",
            _NEEDS_STACKS,
        ),
        _emorl(
            "tetrominoes",
            "Tetrominoes, as released; its target can never be met (the NLL is at least ln 0.3 = -1.204)",
            _NEEDS_TETROMINOES,
            _TETROMINOES | _EMORL_TETROMINOES | {"pixel_std": 0.3, "geco_target": -1.224, "geco_unreachable": True},
        ),
        _emorl(
            "tetrominoes-reachable",
            "Tetrominoes, with our choice of a likelihood and a target that can be met",
            _NEEDS_TETROMINOES,
            _TETROMINOES | _EMORL_TETROMINOES | {"pixel_std": 0.1, "geco_target": -2.265},
        ),
        _emorl(
            "multi_dsprites",
            "flat sprites, as released, without GECO",
            _NEEDS_DSPRITES,
            _DSPRITES | _LATER_ONCE | {"pixel_std": 0.1, "geco": False},
        ),
        _emorl(
            "multi_dsprites-geco",
            "flat sprites, with GECO and the small decoder; our choice of likelihood and target",
            _NEEDS_DSPRITES,
            _DSPRITES | {"pixel_std": 0.1, "geco_target": -2.265, "decoder": "small"},
        ),
        _emorl(
            "clevr6",
            "3 to 6 CLEVR objects, as released",
            _NEEDS_CLEVR6,
            _CLEVR6 | _LATER_ONCE | {"likelihood": "mog", "pixel_std": 0.1, "geco_target": -2.206},
        ),
        _emorl(
            "clevr6-big",
            "3 to 6 CLEVR objects, with the big decoder, which costs a fraction of the released one",
            _NEEDS_CLEVR6,
            _CLEVR6 | _LATER_ONCE | {"likelihood": "mog", "pixel_std": 0.1, "geco_target": -2.206, "decoder": "big"},
        ),
        _slot_attention("tetrominoes", "Tetrominoes", _NEEDS_TETROMINOES, _TETROMINOES | {"decoder": "small"}),
        _slot_attention("multi_dsprites", "flat sprites", _NEEDS_DSPRITES, _DSPRITES | {"decoder": "small"}),
        _slot_attention("clevr6", "3 to 6 CLEVR objects", _NEEDS_CLEVR6, _CLEVR6 | {"decoder": "big"}),
        _air("air", "AIR (Eslami et al. 2016)", {}),
        _air("dair", "DAIR, which can count beyond its training data", {"differential": True}),
        Preset(
            RecurrentConfig(preset="recurrent-mog-shapestacks", **_STACKS, **_MOG),
            "SRI's scene model with a recurrent guide, towers of blocks: our baseline",
            _NEEDS_STACKS,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Returns the preset with this name.

    Raises:
        UserError: If there is none. The message suggests the closest name.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset '{name}': {nearest(name, PRESETS)}")
    return PRESETS[name]


def train_options(config: RunConfig, tiny: bool = False) -> list[str]:
    """The options of `train` that turn the preset into this configuration; for an unknown preset, all fields.

    Args:
        config: The configuration.
        tiny: Whether the options follow `--tiny`.
    """
    preset = PRESETS.get(config.preset)
    default: dict[str, Any] = {}
    if preset is not None and tiny:
        default = asdict(preset.tiny().config)
    elif preset is not None:  # its schedule is scaled with --steps
        default = asdict(preset.config.stretched(config.steps)) | {"steps": preset.config.steps}
        if preset.suits_data:  # fields that are not given depend on the data
            default = {}
    words = []
    for name, value in asdict(config).items():
        if name in NOT_OPTIONS or value is None or (name in default and value == default[name]):
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + flag(name)[2:])
        else:
            words += [flag(name), str(value)]
    return words
