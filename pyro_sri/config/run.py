"""What all runs have in common, whatever their system."""

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_type_hints

import tyro
from pyro.nn import PyroModule

from pyro_sri.config.values import LARGEST_NUMBER, checked
from pyro_sri.objectives import TermsELBO
from pyro_sri.system.errors import UserError
from pyro_sri.system.seeds import check_seed

NotAnOption = Annotated[str, tyro.conf.Suppress, tyro.conf.Fixed]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "tf32", "bf16"]
OptimizerKind = Literal["adam", "muon"]

# Fields that say how a run is carried out, not what it is. They may change when a run is resumed.
# (The data may move and be called otherwise, but not change: its content is compared.)
RESUMABLE = frozenset(
    {"steps", "device", "devices", "nodes", "capture", "compile", "recompute_decoder", "num_workers"}
    | {"threads", "log_every", "validate_every", "picture_every", "checkpoint_every", "data", "data_hash", "dataset"}
)

# How --help groups the common fields. All others belong to the system.
FIELD_GROUPS: dict[str, tuple[str, ...]] = {
    "data": ("data", "image_size"),
    "optimisation": (
        *(
            "start_from",
            "steps",
            "batch_size",
            "optimizer",
            "learning_rate",
            "warmup_steps",
            "halving_steps",
            "halving",
        ),
        *("decay_steps", "gradient_clip", "ema", "seed"),
    ),
    "execution": (
        *("device", "devices", "nodes", "threads", "precision", "capture", "compile", "recompute_decoder"),
        "num_workers",
    ),
    "bookkeeping": ("log_every", "validate_every", "validation_images", "picture_every", "checkpoint_every"),
}
NOT_OPTIONS = frozenset({"preset", "dataset", "data_hash"})  # fields that are set by a preset or a run

# Fields that depend on the length of a run: numbers of steps, and the sizes of repeated steps.
STEP_NUMBERS = (
    *("warmup_steps", "halving_steps", "decay_steps"),
    *("segregation_steps", "prior_from", "prior_warmup_steps", "refinement_drop", "annealing_steps", "geco_warm_start"),
)
STEP_SIZES = ("geco_step",)

# The largest values that a configuration may have, far above what any of these systems is known to use. A typing error
# or a damaged file must not ask for more memory or processes than there are.
LARGEST: dict[str, int] = {
    **dict.fromkeys(
        ("devices", "nodes", "threads", "num_workers", "mask_channels", "channels", "decoder_channels"), 1024
    ),
    **dict.fromkeys(("slot_size", "scene_size", "mask_slot_size", "component_slot_size", "window_size"), 4096),
    **dict.fromkeys(
        ("code_size", "hidden_size", "layer_size", "features", "hidden", "lstm_units", "scene_width"), 4096
    ),
    **dict.fromkeys(("num_slots", "refinement_steps", "later_refinement_steps", "num_iterations"), 256),
    "geco_warm_start": 10**9,
    **dict.fromkeys(("attention_layers", "segregation_layers", "component_layers", "num_layers"), 64),
}


class Cycle(NamedTuple):
    """A warm-up and a cosine decay of the learning rate, in steps."""

    start: int
    warmup: int
    decay: int  # 0 means no decay


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """The fields that runs of all systems have: data, optimisation, bookkeeping."""

    system: ClassVar[str]
    tiny_fields: ClassVar[Mapping[str, Any]]
    """The values of the system's own fields in `tiny`, unless they are smaller already."""

    preset: NotAnOption
    """Name of the preset that this run started from."""

    dataset: NotAnOption
    """What the data is: a family of `data make`, a published data set, or own. In a preset, the data that it is meant
    for; in a run, what its data file says."""
    data: Path | None = None
    """The dataset file (HDF5)."""
    data_hash: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """Hash of the file's content, stored when the run starts."""
    image_size: int = 64
    """Side of the square images in pixels. Taken from the data file if there is one."""

    start_from: str | None = None
    """Start from the weights of this run (or of a preset with bundled weights) instead of new ones. Networks and
    objective must be the same."""
    steps: int = 500_000
    """Number of optimisation steps. In a new run, schedule options that are not given are scaled with it."""
    batch_size: int = 32
    """Images per step, over all processes."""
    optimizer: OptimizerKind = "adam"
    """Optimiser: adam, or muon, which uses Muon (orthogonalised momentum) for convolutions and Adam for the rest."""
    learning_rate: float = 1e-4
    """Learning rate of the optimiser."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    halving_steps: int = 0
    """Number of steps after which the learning rate halves, again and again; 0 turns this off."""
    halving: Literal["stepwise", "smooth"] = "stepwise"
    """Halve the learning rate all at once (stepwise), or gradually in every step after the warm-up (smooth), as EMORL's
    release does."""
    decay_steps: int = 0
    """Step at which a cosine decay reaches one fiftieth of the learning rate; 0 keeps the rate constant."""
    gradient_clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, for example 0.999. Evaluation and sampling then use the
    average. 0 turns it off."""
    seed: int = 0
    """Seed of the initial weights, the random draws and the order of the data."""

    device: Device = "auto"
    """Device to run on. auto uses a GPU if there is one."""
    devices: int = 1
    """Processes on each machine, one per device. They share the batch."""
    nodes: int = 1
    """Number of machines. They share the batch."""
    threads: int = 0
    """CPU threads of each process. 0 uses PyTorch's default. Small networks train faster on one thread."""
    precision: Precision = "float32"
    """Precision of the convolutions: float32, tf32 (on GPUs) or bf16. Everything else stays in float32."""
    capture: bool = False
    """Record whole steps as CUDA graphs and replay them. Faster on a GPU; no effect on a CPU."""
    compile: bool = False
    """Compile decoders and encoders with torch.compile. Without a compiler they run uncompiled."""
    recompute_decoder: bool = False
    """Compute the decoder again in the backward pass instead of keeping its layers: less memory, more time."""
    num_workers: int = 0
    """Processes that read ahead if the data does not fit into memory; 0 reads in the training process."""
    log_every: int = 100
    """Steps between lines in metrics.jsonl and TensorBoard."""
    validate_every: int = 2_000
    """Steps between passes over the validation images."""
    validation_images: int = 256
    """Number of validation images, taken from the start of the split."""
    picture_every: int = 2_000
    """Steps between pictures in TensorBoard."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        types = field_types(type(self))
        for field in dataclasses.fields(self):
            value = checked(getattr(self, field.name), types[field.name], flag(field.name))
            object.__setattr__(self, field.name, value)
            largest = LARGEST.get(field.name, LARGEST_NUMBER)
            if isinstance(value, int) and abs(value) > largest:
                shown = value if abs(value) <= LARGEST_NUMBER else "a huge number"
                raise UserError(f"{flag(field.name)} is {shown}: it must be at most {largest}")
        floats = [field.name for field in dataclasses.fields(self) if types[field.name] is float]
        self.require(floats, math.isfinite, "a finite number")
        positive = ["image_size", "batch_size", "learning_rate", "devices", "nodes", "log_every", "validate_every"]
        positive += ["validation_images", "picture_every", "checkpoint_every"]
        self.require(positive, lambda value: value > 0, "positive")
        not_negative = ["steps", "warmup_steps", "halving_steps", "decay_steps", "gradient_clip"]
        not_negative += ["threads", "num_workers"]
        self.require(not_negative, lambda value: value >= 0, "0 or more")
        self.require(["ema"], lambda value: 0 <= value < 1, "at least 0 and below 1")
        check_seed(self.seed)
        self.check_shared("batch_size")
        if self.capture and self.num_processes > 1:
            raise UserError("--capture works with one process only: leave it out, or leave out --devices and --nodes")

    def require(self, names: list[str], holds: Callable[[Any], bool], wanted: str) -> None:
        """Raises UserError unless the values of these fields meet a condition."""
        for name in names:
            value = getattr(self, name)
            if not holds(value):  # written so that NaN fails
                raise UserError(f"{flag(name)} is {value}: it must be {wanted}")

    def check_shared(self, name: str) -> None:
        """Raises UserError unless the processes can share a batch of this size."""
        size = getattr(self, name)
        if size % self.num_processes:
            raise UserError(
                f"{flag(name)} {size} cannot be shared by {self.num_processes} processes: "
                f"use a multiple of {self.num_processes}"
            )

    @property
    def num_processes(self) -> int:
        """Processes that share the batch."""
        return self.devices * self.nodes

    @property
    def data_file(self) -> Path:
        """The dataset file.

        Raises:
            UserError: If the run names none.
        """
        if self.data is None:
            raise UserError(f"a run of {self.preset} needs a data file: name one with --data")
        return self.data

    def tiny(self) -> Self:
        """The same system at a size that runs in seconds. It shows that everything works, but learns nothing."""
        bookkeeping: dict[str, Any] = {"log_every": 1, "validate_every": 2, "picture_every": 2, "checkpoint_every": 2}
        sizes: dict[str, Any] = {
            "image_size": min(self.image_sizes),
            "batch_size": 2,
            "steps": 3,
            "validation_images": 2,
        }
        smaller = {name: min(value, getattr(self, name)) for name, value in self.tiny_fields.items()}
        return dataclasses.replace(self, **bookkeeping, **sizes, start_from=None, **smaller)

    @classmethod
    def completed(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a stored run, completed with old behaviour where defaults now mean something else."""
        return fields

    def cycle(self, step: int) -> Cycle:
        """The cycle of the learning rate that a step belongs to."""
        return Cycle(0, self.warmup_steps, self.decay_steps)

    @property
    def encoded_from(self) -> int | None:
        """The first step that trains on slots of images that were encoded once, or None."""
        return None

    def images_per_step(self, step: int) -> int:
        """Images that a step takes, over all processes."""
        return self.batch_size

    @property
    def idle_parameters(self) -> bool:
        """Whether some steps leave parameters without gradients because their networks did not run."""
        return getattr(self, "num_slots", None) == 1  # no slot after the first, whose prior depends on it

    def schedule(self) -> dict[str, float]:
        """The fields that depend on the length of the run, without those that are 0, which means never."""
        there = [name for name in (*STEP_NUMBERS, *STEP_SIZES) if hasattr(self, name)]
        return {name: getattr(self, name) for name in there if getattr(self, name) != 0}

    def stretched(self, steps: int) -> Self:
        """The same run with another number of steps, and its schedule in proportion.

        Numbers of steps are rounded, but not to 0. The step size of the KL weight grows as the run gets shorter, so
        that the weight can move as far.
        """
        if not steps or not self.steps:
            return dataclasses.replace(self, steps=steps)
        fields: dict[str, Any] = {}
        for name, value in self.schedule().items():
            if name in STEP_NUMBERS:
                fields[name] = max(1, round(value * steps / self.steps))
            else:
                fields[name] = value * self.steps / steps
        return dataclasses.replace(self, steps=steps, **fields)

    def untrained(self, step: int) -> str | None:
        """Which part of the model is still untrained at this step, and why, in one line. None if everything is
        trained."""
        return None

    @property
    @abstractmethod
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the system's networks take."""

    @abstractmethod
    def build(self) -> tuple[PyroModule, PyroModule, TermsELBO]:
        """A new model, its guide, and the objective that trains them. Weights come from the current random state.

        `pyro_sri.programs.join(guide, objective)` makes the objective known to the guide.
        """


def flag(field: str) -> str:
    """The name of a field on the command line."""
    return "--" + field.replace("_", "-")


@functools.cache
def field_types(config: type[RunConfig]) -> dict[str, Any]:
    """The types of a configuration's fields by name."""
    return get_type_hints(config)
