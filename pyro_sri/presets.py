"""The runs that ship: published hyper-parameters under the names of their data, and one for a laptop."""

from dataclasses import dataclass, replace
from typing import Any

from pyro_sri.config import RunConfig, SRIConfig, nearest
from pyro_sri.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A run that ships.

    Attributes:
        config: The run.
        summary: What it is, in one line.
        needs: The data and time it needs, in one line.
        makes_data: Arguments of `data make` if the run makes its own data; None if the user must give a file.
        data_name: What that data file is called; None: as the preset.
    """

    config: RunConfig
    summary: str
    needs: str
    makes_data: dict[str, Any] | None = None
    data_name: str | None = None

    def tiny(self) -> "Preset":
        """The same at a size that runs in seconds, on a few images that it makes."""
        config = self.config.tiny()
        data = {"size": config.image_size, "train": 8, "val": 2, "test": 2}
        return replace(self, config=config, makes_data=data, data_name=f"tiny-{config.dataset}-{config.image_size}")


_MOG = {"likelihood": "mog", "pixel_std": 0.7, "normalised": True, "geco_target": 0.5655}
_GAUSSIAN = {"likelihood": "gaussian", "pixel_std": 0.7, "normalised": False, "geco_target": -0.353}

_STACKS = {"dataset": "stacks", "image_size": 64, "num_slots": 9}
_ROOMS = {"dataset": "rooms", "image_size": 64, "num_slots": 7}
_CLEVR6 = {"dataset": "clevr6", "image_size": 96, "num_slots": 7, "steps": 425_000}

_AUTHORS_TIME = "the authors took 20 h on two A100"


def _sri(name: str, summary: str, needs: str, **fields: Any) -> Preset:
    return Preset(SRIConfig(preset=name, **fields), summary, needs)


PRESETS: dict[str, Preset] = {
    preset.config.preset: preset
    for preset in (
        Preset(
            SRIConfig(
                preset="sri-quick",
                dataset="tetrominoes",
                image_size=32,
                num_slots=4,
                slot_size=16,
                scene_size=32,
                likelihood="gaussian",
                pixel_std=0.1,
                semiconv=False,
                colour_scale_init=0.4,
                coordinates=True,
                posterior_scale_init=0.05,
                share_decoder=True,
                init="pytorch",
                segregation_steps=18_000,
                geco_target=-1.23,
                beta_init=0.01,
                beta_min=0.01,
                beta_max=1.0,
                steps=23_000,
                batch_size=8,
                learning_rate=2.5e-3,
                warmup_steps=100,
                decay_steps=23_000,
                log_every=100,
                validate_every=1_000,
                picture_every=2_000,
                checkpoint_every=500,
            ),
            "SRI on small images of three Tetrominoes: objects come apart on a laptop",
            "makes its own data (32x32); half an hour on one core, and weights ship",
            makes_data={"size": 32, "train": 20_000, "val": 256, "test": 320},
        ),
        _sri(
            "sri-mog-shapestacks",
            "SRI, mixture likelihood, towers of blocks (Emami et al. 2023, table 2)",
            f"stacks at 64x64, generated ('pyro-sri data make stacks') or converted from ShapeStacks; {_AUTHORS_TIME}",
            **_STACKS,
            **_MOG,
        ),
        _sri(
            "sri-g-shapestacks",
            "SRI, Gaussian likelihood, towers of blocks (table 2 and the ablations)",
            f"stacks at 64x64, generated ('pyro-sri data make stacks') or converted from ShapeStacks; {_AUTHORS_TIME}",
            **_STACKS,
            **_GAUSSIAN,
        ),
        _sri(
            "sri-mog-objects_room",
            "SRI, mixture likelihood, rooms with 1 to 3 objects (table 2)",
            f"rooms at 64x64, generated ('pyro-sri data make rooms') or converted from Objects Room; {_AUTHORS_TIME}",
            **_ROOMS,
            **_MOG,
        ),
        _sri(
            "sri-g-objects_room",
            "SRI, Gaussian likelihood, rooms with 1 to 3 objects (table 2)",
            f"rooms at 64x64, generated ('pyro-sri data make rooms') or converted from Objects Room; {_AUTHORS_TIME}",
            **_ROOMS,
            **_GAUSSIAN,
        ),
        _sri(
            "sri-mog-clevr6",
            "SRI, mixture likelihood, 3 to 6 CLEVR objects; likelihood and target as GENESIS-v2's, ours to choose",
            "clevr6 at 96x96, generated ('pyro-sri data make clevr6') or converted from CLEVR with masks",
            **_CLEVR6,
            likelihood="mog",
            pixel_std=0.1,
            normalised=False,
            geco_target=-2.265,
        ),
        _sri(
            "sri-g-clevr6",
            "SRI, Gaussian likelihood, 3 to 6 CLEVR objects (table 2)",
            "clevr6 at 96x96, generated ('pyro-sri data make clevr6') or converted from CLEVR with masks",
            **_CLEVR6,
            **(_GAUSSIAN | {"geco_target": -0.356}),
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UserError: If there is none; names the nearest.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset '{name}': {nearest(name, PRESETS)}")
    return PRESETS[name]
