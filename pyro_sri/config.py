"""Configurations: what a run is, in one flat, frozen, checked dataclass per system."""

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import torch
import tyro
import yaml
from pyro.nn import PyroModule

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.elbo import SRI_ELBO
from pyro_sri.errors import UserError
from pyro_sri.geco import GECO, EmorlGECO, GenesisGECO
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.matching import Matching
from pyro_sri.models.genesis_v2 import IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import IMAGE_SIZES, Initialisation, Kernel, initialise
from pyro_sri.seeds import check_seed

NotAnOption = Annotated[str, tyro.conf.Suppress, tyro.conf.Fixed]
Device = Literal["auto", "cpu", "cuda"]

# How a run is carried out, not what it is: these may change from one resumption to the next.
# (Data may move, but not change: its content is compared.)
RESUMABLE = frozenset({"steps", "device", "devices", "num_workers", "log_every", "picture_every", "data", "data_hash"})


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """What every system's run has: data, optimisation, bookkeeping."""

    system: ClassVar[str]

    preset: NotAnOption
    """Name of the preset that this run started from."""

    dataset: NotAnOption
    """The data it is meant for: a family that `data make` knows."""
    data: Path | None = None
    """The dataset file (HDF5)."""
    data_hash: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """Hash of the file's content, noted when the run starts."""
    image_size: int = 64
    """Image side H = W in pixels; taken from the data file when there is one."""

    start_from: str | None = None
    """Run, or preset whose weights ship, to start from instead of new weights; of the same networks and objective."""
    steps: int = 500_000
    """Optimisation steps in total."""
    batch_size: int = 32
    """Images per step, over all processes."""
    learning_rate: float = 1e-4
    """Adam's step size."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    decay_steps: int = 0
    """Step at which a cosine brings the learning rate to a fiftieth; 0 keeps it constant."""
    gradient_clip: float = 0.0
    """Largest gradient norm; 0 clips nothing."""
    seed: int = 0
    """Seed of the initial weights, of every draw and of the order of the data."""

    device: Device = "auto"
    """Where to run; auto takes a GPU if there is one."""
    devices: int = 1
    """Number of processes, one per device; they share the batch."""
    num_workers: int = 0
    """Processes that read ahead when the data does not fit into memory; 0 reads in the training process."""
    log_every: int = 100
    """Steps between lines in metrics.jsonl and TensorBoard."""
    validate_every: int = 2_000
    """Steps between passes over validation images."""
    validation_images: int = 256
    """Number of validation images; the first ones of the split."""
    picture_every: int = 2_000
    """Steps between pictures in TensorBoard."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        floats = [field.name for field in dataclasses.fields(self) if field.type is float]
        self._require(floats, math.isfinite, "a finite number")
        positive = ["image_size", "batch_size", "learning_rate", "devices", "log_every", "validate_every"]
        positive += ["validation_images", "picture_every", "checkpoint_every"]
        self._require(positive, lambda value: value > 0, "positive")
        not_negative = ["steps", "warmup_steps", "decay_steps", "gradient_clip", "num_workers"]
        self._require(not_negative, lambda value: value >= 0, "0 or more")
        check_seed(self.seed)

    def _require(self, names: list[str], holds: Any, wanted: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not holds(value):  # written so that NaN fails
                raise UserError(f"{flag(name)} is {value}: it must be {wanted}")

    @property
    def data_file(self) -> Path:
        """The dataset file.

        Raises:
            UserError: If the run names none.
        """
        if self.data is None:
            raise UserError(f"a run of {self.preset} needs a data file: give one with --data")
        return self.data

    @property
    @abstractmethod
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the system's networks take."""

    @abstractmethod
    def build(self) -> tuple[PyroModule, PyroModule, Any]:
        """A new model, its guide, and the objective that trains them; weights from the current random state."""


@dataclass(frozen=True, kw_only=True)
class SRIConfig(RunConfig):
    """SRI with GENESIS-v2 as the segregation pair (Emami et al. 2023)."""

    system: ClassVar[str] = "sri"

    num_slots: int = 9
    """K, background included."""
    slot_size: int = 64
    """D, a multiple of 8 up to 64; also the width of the networks."""
    scene_size: int = 128
    """S."""
    attention_layers: int = 3
    """L, relational attention blocks in the scene encoder."""
    matching: Matching = "greedy"
    """How imagined slots are matched to segregated ones."""
    kernel: Kernel = "gaussian"
    """Kernel of the instance colouring."""
    semiconv: bool = True
    """Semi-convolutional instance colours."""
    gate_init: float = 0.0
    """Start of the instance colours' gate; 0: the first masks are circles."""
    colour_scale_init: float = 1.0
    """Factor on the initial weights of the instance colours; smaller: the first masks are larger."""
    coordinates: bool = False
    """Show the slot head where each pixel is (CoordConv); the published networks do not."""
    posterior_scale_init: float = 0.0
    """Start of the slot posteriors' standard deviations; 0 leaves it to the networks' defaults (about 0.9)."""
    share_decoder: bool = False
    """One decoder for the scene model and the segregation, instead of two."""
    init: Initialisation = "official"
    """Initial weights: as the published code, as the paper reads, or PyTorch's."""

    segregation_steps: int = 0
    """Steps at the start that train the segregation pair alone, at half the cost."""

    likelihood: Literal["mog", "gaussian"] = "mog"
    """p(x | z): mixture of Gaussians or one Gaussian around the mask-weighted mean."""
    pixel_std: float = 0.7
    """sigma, the pixel standard deviation."""
    normalised: bool = True
    """Whether densities keep their 0.5 ln(2 pi) per value; GECO's target assumes one or the other."""
    mixture: Literal["channel", "pixel"] = "channel"
    """One mixture per pixel and channel (as all published numbers) or per pixel (as the equation reads)."""

    geco: Literal["genesis", "emorl", "none"] = "genesis"
    """Controller of the KL weight."""
    geco_target: float = 0.5655
    """Goal for the NLL, in nats per pixel and channel."""
    geco_step: float = 1e-6
    """Step size of the controller, as quoted for 64x64 images."""
    geco_speedup: float = 10.0
    """Factor on the step once the goal is met."""
    beta_init: float = 1.0
    """KL weight at the start (GENESIS style)."""
    beta_min: float = 1e-10
    """Lower clamp of the KL weight (GENESIS style)."""
    beta_max: float = 1e10
    """Upper clamp of the KL weight (GENESIS style); 1 caps it at that of the ELBO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ["num_slots", "slot_size", "scene_size", "pixel_std", "geco_step", "geco_speedup"]
        self._require(
            [*positive, "colour_scale_init", "beta_init", "beta_min", "beta_max"], lambda value: value > 0, "positive"
        )
        self._require(
            ["attention_layers", "posterior_scale_init", "segregation_steps"], lambda value: value >= 0, "0 or more"
        )
        self._require(["beta_max"], lambda value: value >= self.beta_min, "--beta-min or more")
        self._require(["posterior_scale_init"], lambda value: value == 0 or 1e-3 <= value <= 10, "0 or 0.001 to 10")
        self._require(["slot_size"], lambda value: value % 8 == 0 and value <= 64, "a multiple of 8 up to 64")
        self._require(["image_size"], lambda value: value in IMAGE_SIZES, "one of 32, 64, 96, 128")

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the UNet takes."""
        return IMAGE_SIZES

    def build(self) -> tuple[SceneModel, SRIGuide, SRI_ELBO]:
        """A new scene model, its SRI guide, and the objective."""
        likelihood = ImageLikelihood(
            kind=self.likelihood, pixel_std=self.pixel_std, normalised=self.normalised, mixture=self.mixture
        )
        shape = {"image_size": self.image_size, "num_slots": self.num_slots, "slot_size": self.slot_size}
        model = SceneModel(**shape, scene_size=self.scene_size, likelihood=likelihood)
        segregation = SegregationPair(
            IndependentSlotModel(**shape, likelihood=likelihood),
            GenesisV2Guide(
                **shape,
                kernel=self.kernel,
                semiconv=self.semiconv,
                gate_init=self.gate_init,
                coordinates=self.coordinates,
            ),
        )
        guide = SRIGuide(model, segregation, num_layers=self.attention_layers, matching=self.matching)
        for module in (model, guide):
            initialise(module, self.init)
        with torch.no_grad():
            segregation.guide.stick_breaking.colour_head.conv.weight.mul_(self.colour_scale_init)
        if self.posterior_scale_init:
            guide.start_scales_at(self.posterior_scale_init)
        if self.share_decoder:
            segregation.model.decoder = model.decoder
        return model, guide, SRI_ELBO(geco=self._geco(), segregation_geco=self._geco())

    def _geco(self) -> GECO | None:
        shared: dict[str, Any] = {
            "target": self.geco_target,
            "image_size": self.image_size,
            "step_size": self.geco_step,
        }
        if self.geco == "genesis":
            return GenesisGECO(
                **shared,
                speedup=self.geco_speedup,
                beta_init=self.beta_init,
                beta_min=self.beta_min,
                beta_max=self.beta_max,
            )
        return EmorlGECO(**shared, acceleration=self.geco_speedup) if self.geco == "emorl" else None


SYSTEMS: dict[str, type[RunConfig]] = {config.system: config for config in (SRIConfig,)}


def flag(field: str) -> str:
    """What a field is called on the command line."""
    return "--" + field.replace("_", "-")


def nearest(name: str, known: Any) -> str:
    """A hint that names the nearest known name, or the known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"


def to_yaml(config: RunConfig) -> str:
    """The configuration as plain YAML."""
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    return yaml.safe_dump({"system": config.system, **fields}, sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str) -> RunConfig:
    """Reads a configuration.

    Args:
        text: YAML as `to_yaml` writes it.
        source: Where the text comes from, for error messages.

    Raises:
        UserError: If it is not YAML, names an unknown system or field, lacks a field, or holds a wrong value.
    """
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict) or "system" not in fields:
        raise UserError(f"{source} is not a configuration: it names no system")
    system = fields.pop("system")
    if not isinstance(system, str) or system not in SYSTEMS:
        raise UserError(f"{source} asks for the system '{system}': {nearest(str(system), SYSTEMS)}")
    config = SYSTEMS[system]
    known = {field.name: field for field in dataclasses.fields(config)}
    types = get_type_hints(config)
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"{source} has an unknown field '{name}': {nearest(str(name), known)}")
        fields[name] = _typed(value, types[name], f"{source}: field '{name}'")
    if missing := [name for name in known if name not in fields]:
        raise UserError(f"{source} lacks the field '{missing[0]}'")
    return config(**fields)


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """Checks a value read from YAML against a field's annotation."""
    if type(None) in (options := get_args(annotation)):
        return None if value is None else _typed(value, options[0], where)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
    if choices := get_args(annotation):
        if value in choices:
            return value
        raise UserError(f"{where} is {value!r}: it must be one of {', '.join(map(str, choices))}")
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    raise UserError(f"{where} is {value!r}: it must be of type {getattr(annotation, '__name__', annotation)}")
