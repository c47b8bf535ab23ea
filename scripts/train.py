"""`pyro-sri train`: train a preset, or continue a run."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from pyro_sri import checkpoints, runs
from pyro_sri.config import RunConfig, SRIConfig, flag
from pyro_sri.config.own import reasons
from pyro_sri.data.checking import dark_images
from pyro_sri.data.format import DatasetFile, convert_advice, describe_unused
from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.look import look_at, most_entities
from pyro_sri.evaluation.controllers import ABOUT_1
from pyro_sri.presets import PRESETS, Preset
from pyro_sri.scripts.cli import note
from pyro_sri.scripts.own_data import own_data
from pyro_sri.scripts.preset_options import given_fields, parse_fields, preset_named
from pyro_sri.scripts.progress import training_progress
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import unused
from pyro_sri.system.processes import is_first
from pyro_sri.system.shell import command_line
from pyro_sri.training.devices import pick_device
from pyro_sri.training.fast import CHOSEN, fastest
from pyro_sri.training.goals import goal_warnings
from pyro_sri.training.loop import check_same, train

PROG = "pyro-sri train"
OWN = "own"  # the name of data that has none
PLAIN_NAME = re.compile(r"[\w.-]{1,64}")
LOOKED_AT = 64  # training images that are looked at before a run starts

_HELP = """Train a preset, or continue a run.

Writes a run directory: config.yaml, checkpoints/ (best.pt by validation, last.pt), metrics.jsonl, tensorboard/.
If you change --steps, the schedule (warm-up, decay and so on) is scaled with it, except for options that you give.
You can stop at any time. The same command with --resume continues as if it had never stopped.

Ctrl-C and SIGTERM stop it after the current step: it writes a checkpoint and exits with status 0. So do SIGHUP (unless
it runs under nohup), SIGUSR1, SIGUSR2 and SIGXCPU. A second Ctrl-C, or one before the first step, exits at once with
status 130 (SIGTERM: 143). If the process is killed, only the steps since the last checkpoint are lost. Only one
command at a time can train in a run directory.

For example:

pyro-sri train sri-quick

pyro-sri train sri-own --data mine.h5 --out runs/mine

pyro-sri train sri-mog-shapestacks --data stacks.h5 --out runs/stacks

pyro-sri train sri-mog-shapestacks --out runs/stacks --resume

pyro-sri train sri-mog-shapestacks --tiny --out runs/try

Args:
    out: Run directory, new or empty (if not given: runs/PRESET).
    resume: Continue the run in --out from its last checkpoint. If there is none, start a new run.
    fast: Choose --precision, --capture and --compile by trying them on the GPU at hand; options that you give stay. A
        resumed run keeps its precision. On a CPU this changes nothing.
    tiny: A quick check that everything works: 3 steps with small images, few slots and features, and generated data.
"""


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    preset = preset_named(args, PROG, _HELP, "[--data FILE] [--out RUN] [--resume]")
    if preset is None:
        return
    tiny = "--tiny" in args
    preset = preset.tiny() if tiny else preset
    config, out, resume = _read(preset.config, args[1:])
    preset, said_size = preset.sized(config.image_size), bool(given_fields(args, ["image_size"]))
    if resume and (out / runs.CONFIG).exists():
        stored = runs.open_run(out).config
        if stored.preset != preset.config.preset:
            raise UserError(f"{out} is a run of '{stored.preset}', not of '{preset.config.preset}'")
        config, out, resume = _read(stored, args[1:])  # options that are not given again stay as they were
        if config.data is not None and config.data == stored.data:
            runs.Run(out, stored).find_data()  # which may have moved
        check_same(_with_absolute_data(config), stored)
    else:
        runs.check_new(out)
        if preset.suits_data:
            preset = _suited(preset, config, said_size)
            config, out, resume = _read(preset.config, args[1:])
        if not tiny and config.steps != preset.config.steps:
            config, out, resume = _read(preset.config.stretched(config.steps), args[1:])
    config = with_data(config, preset, said_size)
    if "--fast" in args:
        config = _at_its_fastest(config, args, stays={"precision"} if (out / runs.CONFIG).exists() else set())
    try:
        run = _train_with_progress(config, out, resume, tiny)
    except KeyboardInterrupt as stop:
        if (out / runs.CONFIG).exists():
            stop.args = (f"to continue from the last checkpoint: {_resuming(config, out)}",)
        raise
    if is_first():
        _say_what_next(run)


def _at_its_fastest(config: RunConfig, args: Sequence[str], stays: set[str]) -> RunConfig:
    """The run as `--fast` carries it out, which is said."""
    config, said = fastest(config, pick_device(config.device), fixed=given_fields(args, CHOSEN) | stays)
    if is_first():
        note(said)
    return config


def _read(default: RunConfig, args: Sequence[str]) -> tuple[RunConfig, Path, bool]:
    """Fields, run directory and whether to resume, with these defaults for the fields."""

    def read(
        config: RunConfig, out: Path | None = None, resume: bool = False, fast: bool = False, tiny: bool = False
    ) -> tuple[RunConfig, Path, bool]:
        return config, out or Path("runs") / (f"{default.preset}-tiny" if tiny else default.preset), resume

    return parse_fields(read, default, _HELP, f"{PROG} {default.preset}", args)


def _suited(preset: Preset, config: RunConfig, said_size: bool) -> Preset:
    """The preset with the fields that its data suggests, which is said."""
    path = with_data(config, preset, said_size).data_file  # which must fit
    gpu = pick_device(config.device).type == "cuda"
    look = look_at(path)
    preset = preset.suited_to(look, gpu)
    assert isinstance(preset.config, SRIConfig)
    chosen = ", ".join(f"{name} {value}" for name, value, _ in reasons(preset.config, look, gpu))
    note(f"what {path.name} suggests, unless you say otherwise: {chosen}")
    return preset


def _with_absolute_data(config: RunConfig) -> RunConfig:
    return config if config.data is None else dataclasses.replace(config, data=config.data.resolve())


def with_data(config: RunConfig, preset: Preset, said_size: bool = False) -> RunConfig:
    """The configuration with its data file, which is made first if the preset makes its own, and with the file's image
    size and the name of what is in it.

    Args:
        config: The configuration.
        preset: The preset that it comes from.
        said_size: Whether the user gave --image-size, which the file must then have.

    Raises:
        UserError: If there is no file, or its images do not fit; the message has the command that makes one.
    """
    if config.data is None and preset.makes_data is not None:
        config = dataclasses.replace(config, data=own_data(preset))
    if config.data is None:
        file = unused(Path(f"{config.dataset}.h5"))
        raise UserError(
            f"{config.preset} needs a data file: {_make_command(config.dataset, config.image_size, file)}, then give "
            f"it with --data {file}"
        )
    config = _with_absolute_data(config)
    with DatasetFile(config.data_file) as data:
        size, dataset = data.image_size, _name_of(data)
    config = dataclasses.replace(config, dataset=dataset)
    if size != config.image_size:
        if size not in config.image_sizes:
            sizes = _in_words(config.image_sizes)
            advice = convert_advice(config.data_file, min(config.image_sizes, key=lambda other: abs(other - size)))
            raise UserError(f"{config.data} holds {size}x{size} images, but {config.preset} takes {sizes}: {advice}")
        if said_size or config.image_size != preset.config.image_size:
            raise UserError(
                f"{config.data} holds {size}x{size} images, not {config.image_size}: leave out --image-size"
            )
        config = dataclasses.replace(config, image_size=size)
    return config


def _name_of(data: DatasetFile) -> str:
    """What a file says that its scenes are: the family that generated them or the published data set, else own."""
    name = str(data.attributes.get("generator", data.attributes.get("dataset", OWN)))
    return name if PLAIN_NAME.fullmatch(name) else OWN


def _in_words(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) if len(sizes) < 10 else f"{min(sizes)} to {max(sizes)}"


def _make_command(dataset: str, size: int, file: Path) -> str:
    if dataset in GENERATORS:
        return f"make one with 'pyro-sri data make {dataset} --size {size} --out {file}'"
    return "make one of your pictures, or of a published set, with 'pyro-sri data convert'"


def _announce(config: RunConfig, out: Path, tiny: bool) -> None:
    """What is about to be trained; called when nothing can be wrong with it any more."""
    with DatasetFile(config.data_file) as data:
        generated = "generated " if data.generated else ""
        note(f"{config.preset} on {generated}{config.data} ({data.num_images('train')} images), run directory {out}")
        entities = None if tiny else most_entities(data)  # a quick check has few slots, whatever the data
        unused = data.unused
        dark = dark_images(int(data.read(data.images("train"), slice(LOOKED_AT)).max()))
    schedule = " ".join(f"{flag(name)} {value:.6g}" for name, value in config.schedule().items())
    if config.steps != PRESETS[config.preset].config.steps and schedule:
        note(f"schedule for {config.steps} steps: {schedule}")
    if untrained := config.untrained(config.steps):
        note(f"warning: {untrained}")
    if unused:
        note(f"warning: {config.data_file.name}: {describe_unused(unused)}")
    if dark is not None:
        note(f"warning: the first images of {config.data_file.name} {dark}")
    for warning in goal_warnings(config, PRESETS[config.preset].config):
        note(f"warning: {warning}")
    num_slots = getattr(config, "num_slots", None)
    if num_slots is not None and entities is not None and num_slots < entities:
        note(
            f"warning: {num_slots} slots are fewer than the {entities} entities (background included) of "
            f"{config.data_file.name}: some will share a slot; consider --num-slots {entities}"
        )


def _train_with_progress(config: RunConfig, out: Path, resume: bool, tiny: bool) -> runs.Run:
    """A progress bar on a terminal, plain lines elsewhere; what is trained is said before the first step."""
    with training_progress(config.steps, summary) as show:
        announced = False

        def advance(step: int, line: dict[str, float] | None) -> None:
            nonlocal announced
            if not announced:
                _announce(config, out, tiny)
                announced = True
            show(step, line)

        return train(config, out, resume=resume, progress=advance)


def summary(line: dict[str, float]) -> str:
    """A log line in few words."""
    names = {name: name.replace("_", " ") for name in line if name == "nll" or name.startswith(("kl_", "mask_kl"))}
    if "segregation_nll" in line and "nll" not in line:
        names = {"segregation_nll": "segregation alone: nll", "segregation_kl": "kl"}
    alone = "  prior alone:" if names and not line.keys() & {"nll", "segregation_nll"} else ""
    words = [f"loss {line['loss']:.1f}{alone}", *(f"{word} {line[name]:.1f}" for name, word in names.items())]
    if "beta" in line:
        words.append(f"beta {line['beta']:.3g}")
    return "  ".join([*words, f"{line['images_per_second']:.0f} images/s"])


def _say_what_next(run: runs.Run) -> None:
    step = checkpoints.load_checkpoint(run.checkpoint("last"))["step"] if run.checkpoint("last").exists() else 0
    if step < run.config.steps:
        note(f"stopped at step {step}; to continue: {_resuming(run.config, run.path)}")
    else:
        if untrained := run.config.untrained(step):
            note(f"warning: {untrained}")
        note(f"done: {run.path} is trained to step {step}{_ended_at(run)}; next: {run.evaluation_command()}")


def _ended_at(run: runs.Run) -> str:
    """That the KL weight is not that of the ELBO, if it is not."""
    betas = [line["beta"] for line in run.log() if "beta" in line]
    return f", with the KL weight at {betas[-1]:.3g}, not 1" if betas and abs(betas[-1] - 1) > ABOUT_1 else ""


def _resuming(config: RunConfig, out: Path) -> str:
    """The command that continues a run; options that it does not give stay as they were."""
    return command_line([*PROG.split(), config.preset, "--out", str(out), "--resume"])
