"""The base class of models and guides, and the record in which a system describes its latent variables."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import pyro
import torch
from pyro.distributions import Independent, MaskedDistribution, Normal
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from pyro_sri.system.errors import UserError

SLACK = 0.01  # tolerance for images outside [0, 1]: rounding, and noise below one grey level of 255

Role = Literal["scene", "slot", "presence", "inner"]


@dataclass(frozen=True)
class Latents:
    """A kind of latent variable of a model.

    Attributes:
        site: The name of its sample site. If the name contains `{k}`, there is a site for each slot k. Otherwise, there
            is a single site: for all slots [K, D] if the role is "slot", and for the whole scene if not.
        term: The term of the bound that its KL belongs to. Several kinds can share a term. None if it is not scored.
        role: What it describes: the "scene", a "slot", the "presence" of slot k (1 or 0), or something "inner" that
            other latents depend on.
        code: Whether it describes what a slot looks like. Disentanglement and active dimensions are measured on it.
        label: The name of a dimension in pictures, before its number.
        dimensions: The names of its dimensions, if they have meanings.
    """

    site: str
    term: str | None
    role: Role = "slot"
    code: bool = True
    label: str = "dim"
    dimensions: tuple[str, ...] = ()

    @property
    def of_each_slot(self) -> bool:
        """Whether there is a site for each slot."""
        return "{k}" in self.site

    def name(self, k: int) -> str:
        """The site of slot k, or the single site of all slots."""
        return self.site.format(k=k)

    def names(self, sites: Any) -> list[str]:
        """Those of its sites that are in a mapping or set of sites, in the order of the slots."""
        if not self.of_each_slot:
            return [self.site] if self.site in sites else []
        found: list[str] = []
        while (name := self.name(len(found))) in sites:
            found.append(name)
        return found


@dataclass(frozen=True)
class Record:
    """A description of a model and of the guide that infers it.

    Objectives, inference, pictures, editing and evaluation use it.

    Attributes:
        latents: The latent variables in the order of the story. Pictures show those of the same role in this order.
        has_prior: Whether scenes can be drawn from the model. An auto-encoder has no prior.
    """

    latents: tuple[Latents, ...] = ()
    has_prior: bool = True

    def of(self, role: Role) -> tuple[Latents, ...]:
        """The latents with a role."""
        return tuple(latents for latents in self.latents if latents.role == role)

    @property
    def codes(self) -> tuple[Latents, ...]:
        """The latents that describe what a slot looks like."""
        return tuple(latents for latents in self.of("slot") if latents.code)

    @property
    def sequence(self) -> Latents | None:
        """The slots, if each is one site and they are drawn one after the other, so that scenes can be edited."""
        slots = self.of("slot")
        alone = len(slots) == 1 and slots[0].of_each_slot and not self.of("presence")
        return slots[0] if alone else None

    def term(self, site: str) -> str | None:
        """The term that the KL of a site belongs to: `kl_KIND` for a site that is not in the record."""
        kind = site.rstrip("0123456789")
        for latents in self.latents:
            numbered = latents.of_each_slot and latents.site == f"{kind}{{k}}" and kind != site
            if numbered or latents.site == site:
                return latents.term
        return f"kl_{kind.rstrip('_')}"


STANDARD = Record((Latents("scene", "kl_scene", "scene"), Latents("slot_{k}", "kl_slots")))  # those of SRI


class Program(PyroModule):
    """The base class of models, guides and segregation pairs: a `PyroModule` that works with and without Pyro's store.

    The parameters of a program belong to it (`module_local_params`), so that it works as a torch module. Under SVI they
    are in Pyro's parameter store. Subclasses do not have to handle this.

    If the store is not used, looking up a network costs nothing. A plain `PyroModule` with `module_local_params` sends
    a message for each weight whenever a network is looked up: 240 in a step of SRI, a third of its time on one small
    image. Nothing uses the answers, so this class does not send the messages.

    Models and guides reject images of the wrong shape. They also reject enclosing plates, because they open their own
    plate over scenes. At temperature 0, every latent that is scaled by the temperature has its mean as its value.

    Attributes:
        record: Description of the latents. The standard ones are `scene`, `slot_0`, `slot_1`, ..
        starts_small: Names of modules that get small initial weights with `init="official"`.
        objective: Creates the objective that trains a segregation pair with this guide. It is called with `geco=`, a
            controller or None. None means the bound of the model and guide, with one sample per image.
        image_size: Image side H = W, or 0 if it is not known.

    Args:
        name: Prefix of the parameters' names in Pyro's store.
        num_slots: K. None for programs that are parts of others.
        image_size: Image side H = W of a model or guide.
    """

    record: Record = STANDARD
    starts_small: ClassVar[tuple[str, ...]] = ()
    image_size: int = 0
    objective: ClassVar[Callable[..., Any] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = pyro.settings.context(module_local_params=True)(cls.__init__)  # type: ignore[method-assign]

    @pyro.settings.context(module_local_params=True)
    def __init__(self, name: str = "", num_slots: int | None = None, image_size: int = 0) -> None:
        super().__init__(name)
        if num_slots is not None:
            self.num_slots = num_slots
        if image_size:
            self.image_size = image_size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program. See `forward` for the arguments."""
        if "num_slots" not in self.__dict__:  # a part of another
            return super().__call__(*args, **kwargs)
        images = args[0] if args else kwargs.get("images")
        _check_plates(self)
        if images is not None:
            _check_images(self, images)
        if "temperature" not in kwargs:
            return super().__call__(*args, **kwargs)
        with _cooling(kwargs.pop("temperature"), images) as temperature:
            return super().__call__(*args, temperature=temperature, **kwargs)

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("_modules", {}).get(name)
        if network is None or isinstance(network, PyroModule) or not pyro.settings.get("module_local_params"):
            return super().__getattr__(name)
        return network

    @property
    def propose_scene(self) -> Callable[[Tensor], Independent] | None:
        """The guide's q(s | some slots [B, K, D]), a proposal for scenes that keep these slots, or None."""
        return None


class Model(Protocol):
    """A generative story: a program, possibly inside handlers."""

    def __call__(
        self,
        images: Tensor | None = None,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> Any:
        """Runs the story, with images [B, 3, H, W] observed or drawn."""

    def __getattr__(self, name: str) -> Any:
        """Networks, and what only some systems have."""


class Guide(Protocol):
    """An inference story: a program, possibly inside handlers."""

    def __call__(
        self,
        images: Tensor,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> Any:
        """Infers the latents of images [B, 3, H, W]."""

    def __getattr__(self, name: str) -> Any:
        """Networks, and what only some systems have."""


class _Means(Messenger):
    """Takes the mean of normal latents instead of drawing them."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        while isinstance(fn, Independent | MaskedDistribution):
            fn = fn.base_dist
        if isinstance(fn, Normal) and not msg["done"] and not msg["is_observed"]:
            msg["value"], msg["done"] = msg["fn"].mean, True


@contextlib.contextmanager
def _cooling(temperature: float, images: Any) -> Iterator[float]:
    """The temperature for a program. At 0, where there are no densities, a handler replaces draws by means."""
    if not temperature >= 0:  # written so that NaN fails
        raise UserError(f"temperature {temperature} is out of range: it must be 0 or more")
    if temperature > 0:
        yield temperature
        return
    if images is not None:
        raise UserError(
            "temperature 0 has no densities to score images with; leave out the images or use a higher temperature"
        )
    with _Means():
        yield 1.0


def _check_plates(program: Program) -> None:
    for plate in get_plates():
        if plate.name == "scenes":
            raise UserError(
                f"the plate 'scenes' is already open, and {type(program).__name__} opens it itself; Pyro runs only one "
                "program at a time, so use processes instead of threads"
            )
        if plate.vectorized:
            raise UserError(
                f"{type(program).__name__} cannot run within the plate '{plate.name}', since it opens its own over "
                "scenes: leave out vectorize_particles=True or parallel=True, or repeat images along the batch"
            )


def _check_images(program: Program, images: Any) -> None:
    """Raises UserError unless the images have the right type and shape. Does not read their values."""
    if not isinstance(images, Tensor):
        raise UserError(f"{type(program).__name__} takes images as a tensor, not as {type(images).__name__}")
    size, shape = program.image_size, tuple(images.shape)
    fits = images.is_floating_point() and images.ndim == 4 and shape[0] > 0 and shape[1] == 3
    if fits and shape[2] == shape[3] and size in (0, shape[2]):
        _check_precision(program, images)
        return
    side = f"{size}, {size}" if size else "H, H"
    raise UserError(
        f"images are {str(images.dtype).removeprefix('torch.')} of shape {list(shape)}: {type(program).__name__} takes "
        f"floating point [B, 3, {side}], B at least 1, channels first, in [0, 1]"
    )


def _check_precision(program: Program, images: Tensor) -> None:
    """Raises UserError if images and weights have different types, unless autocast makes them equal."""
    weights = next(program.parameters(), images)
    if weights.dtype != images.dtype and not torch.is_autocast_enabled(images.device.type):
        theirs, ours = (str(tensor.dtype).removeprefix("torch.") for tensor in (images, weights))
        raise UserError(
            f"images are {theirs}, but the weights of {type(program).__name__} are {ours}: convert one of them, "
            f"for example with images.to(torch.{ours})"
        )


def check_range(program: Any, images: Tensor) -> None:
    """Raises UserError unless the images for a `Program` are in [0, 1]. Waits for their device."""
    if not isinstance(unwrap(program), Program) or not isinstance(images, Tensor) or images.is_meta:
        return
    if images.ndim != 4 or not images.numel():  # wrong shapes are rejected elsewhere
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # written so that NaN fails
        raise UserError(
            f"images of shape {list(images.shape)} have values from {low:.4g} to {high:.4g}: they must be in [0, 1]; "
            "divide bytes by 255, or scale and clamp them"
        )


@contextlib.contextmanager
def evaluating(*parts: Any) -> Iterator[None]:
    """Puts models, guides and objectives in evaluation mode, and restores the mode of each module at the end."""
    modules = [part for part in map(unwrap, parts) if isinstance(part, nn.Module)]
    training = {module: module.training for part in modules for module in part.modules()}
    for part in modules:
        part.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def join(guide: Any, objective: Any) -> None:
    """Stores in a guide the objective that it was made for, without registering it as a submodule."""
    if isinstance(program := unwrap(guide), nn.Module):
        program.__dict__["_objective"] = (objective,)  # bypasses the registration of modules


def joined(guide: Any) -> Any:
    """The objective that a guide was made for, or None."""
    return getattr(unwrap(guide), "_objective", (None,))[0]


def record_of(program: Any) -> Record:
    """The record of a model or guide, also inside handlers. The standard record if it has none."""
    record = getattr(unwrap(program), "record", None)
    return record if isinstance(record, Record) else STANDARD


def device_of(program: Any) -> torch.device:
    """The device of a model or guide, also inside handlers: that of its first parameter or buffer, or the CPU."""
    module = unwrap(program)
    if not isinstance(module, nn.Module):
        return torch.device("cpu")
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def adopt(program: nn.Module) -> None:
    """Prepares plain `PyroModule`s created without `module_local_params` for being called with it."""
    for module in program.modules():
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}
