"""Study files: which systems are compared, on which data and seeds, and with which measures."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from pyro_sri.config import RunConfig, flag, nearest, typed_fields, typed_value, with_fields
from pyro_sri.data.format import SPLITS
from pyro_sri.data.generators import find_generator
from pyro_sri.evaluation import MEANINGS
from pyro_sri.presets import Preset, find_preset
from pyro_sri.system.errors import UserError, one_line
from pyro_sri.system.files import from_home
from pyro_sri.system.seeds import check_seed

SHIPPED = Path(__file__).parent / "studies"
SUFFIX = ".yaml"

LARGEST_FILE = 1_000_000  # characters
MOST_VALUES = 20_000  # of a file; a few lines with aliases could otherwise make any number of them
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")  # of rows and data sets, which name folders and files
TINY_IMAGES: dict[str, Any] = {"train": 8, "val": 2, "test": 2}

LEAST = {"num_images": 1, "batch_size": 1, "num_samples": 0, "iwae_images": 0, "iwae_samples": 1}

STUDY_KEYS = ("title", "note", "data", "fields", "seeds", "evaluate", "measures", "curves", "rows")
ROW_KEYS = ("title", "note", "preset", "fields", "published", "data", "same_as")


@dataclass(frozen=True)
class Data:
    """A data set that runs share: generated, or a file.

    Attributes:
        name: Name of its file in the study's folder, without the suffix.
        file: The file, if the study names one. The other attributes are then unused.
        family: The family of generated scenes.
        size: Side of the images in pixels. None means the family's published size.
        train: Images to train on.
        val: Images to validate on.
        test: Images to evaluate on.
        seed: Seed of the scenes.
        options: Options that only this family has.
    """

    name: str
    file: Path | None = None
    family: str = ""
    size: int | None = None
    train: int = 20_000
    val: int = 1_000
    test: int = 1_000
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Options of `evaluate`, which explains them."""

    num_images: int | None = None
    split: str = "test"
    checkpoint: Literal["best", "last"] = "best"
    batch_size: int = 32
    num_samples: int | None = None
    inception: Path | None = None
    download_inception: bool = False
    iwae_images: int = 50
    iwae_samples: int = 64
    seed: int = 0

    def check(self, named: Callable[[str], str] = flag) -> None:
        """Raises UserError for a number out of range.

        Args:
            named: How a message names an option.
        """
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{named(name)} is {value}: it must be at least {least}")

    def words(self) -> list[str]:
        """The options that differ from the defaults, for a command line."""
        default = asdict(Evaluation())
        given = {name: value for name, value in asdict(self).items() if value != default[name]}
        return [word for name, value in given.items() for word in _option(name, value)]


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        key: Its name, which is also the name of its folder.
        title: Its title in the tables.
        note: What a reader should know about it.
        config: The configuration of its runs, without data and seed.
        data: Name of its data set.
        published: Published values, by measure.
        runs_of: The row whose runs it shows: itself, or the row that it is the same as.
    """

    key: str
    title: str
    note: str
    config: RunConfig
    data: str
    published: Mapping[str, float]
    runs_of: str


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Attributes:
        source: The file.
        title: Its title.
        note: What a reader should know about the whole study.
        data: The data sets by name.
        seeds: Seeds of the runs of every row.
        evaluation: How runs are evaluated.
        measures: Keys of metrics.json that the tables show.
        curves: Values of the log that are plotted against the step.
        rows: The rows by key.
    """

    source: Path
    title: str
    note: str
    data: Mapping[str, Data]
    seeds: tuple[int, ...]
    evaluation: Evaluation
    measures: tuple[str, ...]
    curves: tuple[str, ...]
    rows: Mapping[str, Row]

    def tiny(self) -> "Study":
        """The same study at a size that runs in seconds: `train --tiny`, few images, little evaluation."""
        rows = {key: replace(row, config=row.config.tiny()) for key, row in self.rows.items()}
        sizes = {row.data: row.config.image_size for row in rows.values()}
        data = {
            name: known if known.file is not None else replace(known, size=sizes.get(name), **TINY_IMAGES)
            for name, known in self.data.items()
        }
        little = Evaluation(num_images=2, num_samples=2, iwae_images=1, iwae_samples=2, split=self.evaluation.split)
        return replace(self, rows=rows, data=data, evaluation=little)


def shipped_studies() -> dict[str, Path]:
    """The bundled studies by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))}


def find_study(name: str) -> Study:
    """A study given by its file, or by its name if it is bundled.

    Raises:
        UserError: If there is none, or it has an error. The message names the file, the row and the closest valid word.
    """
    shipped, path = shipped_studies(), Path(name)
    if path.suffix in (SUFFIX, ".yml") or path.is_file():
        return read_study(path)
    if name not in shipped:
        raise UserError(f"there is no study file {name} and no bundled study of that name: {nearest(name, shipped)}")
    return read_study(shipped[name])


def read_study(path: Path) -> Study:
    """Reads a study file.

    Raises:
        UserError: If it has an error. The message names the file, the row and the closest valid word.
    """
    where = str(path)
    content = _mapping(_read_yaml(path), where)
    _check_keys(content, STUDY_KEYS, where)
    for key in ("title", "data", "rows"):
        if not content.get(key):
            raise UserError(f"{where} has no '{key}': add it")
    data = _read_data(content["data"], path)
    common = _mapping(content.get("fields") or {}, f"{where}: fields")
    rows: dict[str, Row] = {}
    for key, row in _mapping(content["rows"], f"{where}: rows").items():
        rows[key] = _read_row(key, row, common, data, rows, where)
    evaluation = _read_evaluation(content.get("evaluate") or {}, f"{where}: evaluate")
    _check_images(data, evaluation.split, f"{where}: data")
    return Study(
        source=path,
        title=_text(content["title"], f"{where}: title"),
        note=_text(content.get("note", ""), f"{where}: note"),
        data=data,
        seeds=_read_seeds(content.get("seeds", [0]), where),
        evaluation=evaluation,
        measures=_read_measures(content.get("measures", ["ari_fg", "mse"]), where),
        curves=_read_curves(content.get("curves", ["val_nll"]), where),
        rows=rows,
    )


def _read_row(key: str, content: Any, common: Mapping[str, Any], data: Any, rows: Mapping[str, Row], file: str) -> Row:
    where = f"{file}: row '{key}'"
    if not NAME.fullmatch(key):
        raise UserError(f"{where} is also a folder name: use only letters, digits and . _ + -, at most 64 characters")
    content = _mapping(content, where)
    _check_keys(content, ROW_KEYS, where)
    texts: dict[str, Any] = {
        "title": _text(content.get("title", key), f"{where}: title"),
        "note": _text(content.get("note", ""), f"{where}: note"),
    }
    published = _read_published(content.get("published") or {}, where)
    if "same_as" in content:
        if {"preset", "fields", "data"} & content.keys():
            raise UserError(f"{where} has 'same_as': it cannot have a preset, fields or data of its own")
        other = _text(content["same_as"], f"{where}: same_as")
        if other not in rows:
            raise UserError(f"{where} is the same as '{other}', which is not a row above it: {nearest(other, rows)}")
        return replace(rows[other], key=key, published=published, **texts)
    if "preset" not in content:
        raise UserError(f"{where} has no preset: add one that 'pyro-sri presets' lists")
    try:
        preset = find_preset(str(content["preset"]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if preset.suits_data:
        raise UserError(
            f"{where}: {preset.config.preset} chooses its settings for one data file, but the runs of a row are to be "
            "the same on any data: use the preset sri-quick, with fields that 'pyro-sri data suggest F.h5' prints"
        )
    config = configure(preset, {**common, **_mapping(content.get("fields") or {}, where)}, where)
    name = _read_choice(content.get("data"), data, where)
    config = _with_image_size(config, data[name], where)
    return Row(key, config=config, data=name, published=published, runs_of=key, **texts)


def configure(preset: Preset, changed: Mapping[str, Any], where: str) -> RunConfig:
    """The configuration that `train` gives for a preset and changed fields. If the steps change, the schedule follows.

    Raises:
        UserError: If a field is unknown or belongs to the study, or a value is wrong.
    """
    for name, reason in (("seed", "seeds"), ("data", "data"), ("image_size", "data")):
        if name in changed:
            raise UserError(f"{where}: the field '{name}' follows from '{reason}' of the study: leave it out")
    config = with_fields(preset.config, changed, where)
    if config.steps == preset.config.steps:
        return config
    return with_fields(preset.config.stretched(config.steps), changed, where)


def _with_image_size(config: RunConfig, data: Data, where: str) -> RunConfig:
    """The configuration with the size of the images that will be made. The size of a file is known once it exists."""
    size = data.size
    if data.file is not None or size is None:
        return config
    if size not in config.image_sizes:
        sizes = ", ".join(map(str, config.image_sizes))
        raise UserError(f"{where}: {config.preset} does not support images of size {size}; it supports {sizes}")
    return replace(config, image_size=size)


def _read_data(content: Any, path: Path) -> dict[str, Data]:
    """One data set, named after its family or file, or several data sets by name."""
    where = f"{path}: data"
    content = _mapping(content, where)
    if not {"family", "file"} & content.keys():
        if not all(isinstance(one, dict) for one in content.values()):
            raise UserError(f"{where} names neither a family nor a file: add one of them")
        return {name: _read_one(one, name, path, f"{where}: '{name}'") for name, one in content.items()}
    name = Path(str(content["file"])).stem if "file" in content else str(content["family"])
    return {name: _read_one(content, name, path, where)}


def _read_one(content: Mapping[str, Any], name: str, path: Path, where: str) -> Data:
    if not NAME.fullmatch(name):
        raise UserError(f"{where}: '{name}' is also a file name: use only letters, digits and . _ + -, at most 64")
    if "file" in content:
        if len(content) > 1:
            raise UserError(f"{where} has 'file': leave out {', '.join(sorted(content.keys() - {'file'}))}")
        return Data(name, file=path.parent / from_home(_text(content["file"], f"{where}: file")))
    if "family" not in content:
        raise UserError(f"{where} names neither a family nor a file: add one of them")
    try:
        generator = find_generator(str(content["family"]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    own = {known.name for known in fields(generator.options)}
    shared = {known.name for known in fields(Data)} - {"name", "file", "options"}
    for key in content:
        if key not in own | shared:
            raise UserError(f"{where} has an unknown option '{key}': {nearest(key, own | shared)}")
    given = {name: content[name] for name in own & content.keys()}
    options = typed_fields(generator.options, {k: v for k, v in given.items() if not isinstance(v, list)}, where)
    options |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    values = typed_fields(Data, {k: v for k, v in content.items() if k in shared}, where)
    data = Data(name, options=options, **values)
    size = generator.default_size if data.size is None else data.size
    try:
        generator.parse_options(options)
        generator.check_request(size, {split: getattr(data, split) for split in SPLITS}, data.seed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return replace(data, size=size)


def _read_choice(content: Any, data: Mapping[str, Data], where: str) -> str:
    """The name of a row's data set."""
    if content is None and len(data) == 1:
        return next(iter(data))
    if content is None:
        raise UserError(f"{where} does not name its data: add 'data', one of {', '.join(data)}")
    name = _text(content, f"{where}: data")
    if name not in data:
        raise UserError(f"{where} asks for the data '{name}': {nearest(name, data)}")
    return name


def _read_evaluation(content: Any, where: str) -> Evaluation:
    evaluation = Evaluation(**typed_fields(Evaluation, _mapping(content, where), where))
    evaluation.check(lambda name: f"{where}: {name}")
    if evaluation.split not in SPLITS:
        raise UserError(f"{where}: there is no split '{evaluation.split}': {nearest(evaluation.split, SPLITS)}")
    _check_seed(evaluation.seed, where)
    return evaluation


def _check_images(data: Mapping[str, Data], split: str, where: str) -> None:
    """Raises UserError if a data set would have no images to train on or to evaluate."""
    for known in data.values():
        if known.file is None:
            for name in ("train", split):
                if getattr(known, name) < 1:
                    raise UserError(f"{where}: '{known.name}' has no {name} images: make '{name}' at least 1")


def _check_seed(seed: int, where: str) -> None:
    try:
        check_seed(seed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _read_seeds(content: Any, where: str) -> tuple[int, ...]:
    if not isinstance(content, list) or not content or not all(type(seed) is int for seed in content):
        raise UserError(f"{where}: seeds must be a list of whole numbers, such as [0, 1, 2]")
    if len(set(content)) < len(content):
        raise UserError(f"{where}: a seed occurs twice in seeds: leave one out")
    for seed in content:
        _check_seed(seed, where)
    return tuple(content)


def _read_measures(content: Any, where: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{where}: measures must be a list of names, such as [ari_fg, mse]")
    for name in content:
        _check_measure(name, f"{where}: measures")
    return tuple(dict.fromkeys(content))


def _read_curves(content: Any, where: str) -> tuple[str, ...]:
    """Names of logged values, which differ between systems. Names that no run has give no figure."""
    if not isinstance(content, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in content):
        raise UserError(f"{where}: curves must be a list of names in metrics.jsonl, such as [val_nll, beta]")
    return tuple(dict.fromkeys(content))


def _read_published(content: Any, where: str) -> dict[str, float]:
    where = f"{where}: published"
    values = {}
    for name, value in _mapping(content, where).items():
        _check_measure(name, where)
        values[name] = typed_value(value, float, f"{where}: {name}")
        if not math.isfinite(values[name]):
            raise UserError(f"{where}: {name} is {value}: it must be a number")
    return values


def _check_measure(name: str, where: str) -> None:
    if name not in MEANINGS:
        raise UserError(f"{where} has an unknown measure '{name}': {nearest(name, MEANINGS)}")


def _check_keys(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where} has an unknown key '{key}': {nearest(key, known)}")


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{where} must have names with values, as in 'name: value'")
    return content


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str | int | float) or isinstance(content, bool):
        raise UserError(f"{where} must be text")
    return " ".join(str(content).split())


def _option(name: str, value: Any) -> list[str]:
    return ([flag(name)] if value else []) if isinstance(value, bool) else [flag(name), str(value)]


def _read_yaml(path: Path) -> Any:
    """A YAML file as plain mappings with text keys, lists and values. A duplicate key is an error."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        if not path.exists():
            raise UserError(f"there is no study file {path}; 'pyro-sri study --help' shows one") from error
        raise UserError(f"{path} is not a readable study file; 'pyro-sri study --help' shows one") from error
    if len(text) > LARGEST_FILE:
        raise UserError(f"{path} is too long to be a study file")
    try:
        loader = yaml.SafeLoader(text)
        return _plain(loader, loader.get_single_node(), str(path), [MOST_VALUES])
    except UserError:
        raise
    except Exception as error:  # the library fails in many ways on bad dates, bad numbers and deep nesting
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error


def _plain(loader: Any, node: Any, where: str, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise UserError(f"{where} has too many values to be a study file")
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key, value in node.value:
            name = str(getattr(key, "value", ""))
            if not isinstance(key, yaml.ScalarNode) or name in content:
                raise UserError(f"{where} has the key '{name}' twice, or a key that is not text: correct it")
            content[name] = _plain(loader, value, where, left)
        return content
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, value, where, left) for value in node.value]
    return None if node is None else loader.construct_object(node)
