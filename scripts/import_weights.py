"""The command `pyro-sri import-weights`: converts the authors' published weights to a run."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from pyro.infer.elbo import ELBOModule

from pyro_sri import checkpoints, runs
from pyro_sri.models.emorl import HierarchicalPriorKind
from pyro_sri.nn import Kernel, PositionDecoderKind
from pyro_sri.scripts.cli import note, parse
from pyro_sri.scripts.official_runs import load_official
from pyro_sri.system.errors import UserError
from pyro_sri.system.shell import command_line
from pyro_sri.system.torch_files import is_finite, load_torch_file


def import_weights(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    /,
    out: Path,
    image_size: int,
    num_slots: int,
    system: Literal["sri", "genesis_v2", "genesis", "emorl", "slot_attention"] = "sri",
    kernel: Kernel | None = None,
    semiconv: bool = True,
    pixel_std: float | None = None,
    first_pixel_std: float | None = None,
    likelihood: Literal["mog", "gaussian"] | None = None,
    num_layers: int | None = None,
    prior: HierarchicalPriorKind | None = None,
    decoder: PositionDecoderKind | None = None,
    dataset: str = "unknown",
) -> None:
    """Convert the authors' published weights of SRI, GENESIS-v2, GENESIS, EMORL or Slot Attention to a run.

    Code in the file is never run. Network sizes are read from the weights if possible. Give the others as options.
    The run works with sample, evaluate and report, like any other run.

    For example:

    pyro-sri import-weights sri.pth --out runs/official --image-size 64 --num-slots 9

    pyro-sri import-weights emorl.pth --system emorl --out runs/emorl --image-size 96 --num-slots 7 --pixel-std 0.1

    Args:
        file: A state dict, or a checkpoint that contains one, written by torch.save.
        out: Run directory. It must be new or empty.
        image_size: Side length of the training images, in pixels.
        num_slots: Number of slots, K.
        system: The system that the weights belong to.
        kernel: Kernel of the instance colouring, for sri and genesis_v2 (if not given: gaussian).
        semiconv: Whether the instance colours are semi-convolutional, for sri and genesis_v2.
        pixel_std: Pixel standard deviation, sigma (if not given: 0.7 for sri and genesis_v2, 0.3 for emorl, and the
            value in the weights for genesis).
        first_pixel_std: Sigma of the first slot, for genesis (if not given: the value in the weights).
        likelihood: Image likelihood in training (if not given: mog for sri and genesis_v2, gaussian for emorl).
        num_layers: Number of layers of bottom-up inference, L, for emorl (if not given: 3).
        prior: Hierarchical prior, for emorl (if not given: rpp).
        decoder: Published decoder (if not given: iodine for emorl, small for slot_attention).
        dataset: Name of the training data, stored in config.yaml.
    """
    if (out / runs.CONFIG).exists():
        raise UserError(f"{out} holds another run: choose another folder with --out")
    state_dict = read_state_dict(file)
    given = {
        "kernel": kernel,
        "semiconv": None if semiconv else False,
        "pixel_std": pixel_std,
        "first_pixel_std": first_pixel_std,
        "likelihood": likelihood,
        "num_layers": num_layers,
        "prior": prior,
        "decoder": decoder,
    }
    shared = {
        "preset": "imported",
        "dataset": dataset,
        "image_size": image_size,
        "num_slots": num_slots,
        "steps": 0,
    }
    config, model, guide = load_official(system, state_dict, shared, given)
    ours_model, ours_guide, objective = config.build()
    module = ELBOModule(model.float(), guide.float(), objective)
    checkpoints.check_fits(ELBOModule(ours_model, ours_guide, objective), module.state_dict(), file)
    if not all(map(is_finite, module.state_dict().values())):
        raise UserError(f"{file} contains values that are not finite in single precision; use other weights")
    runs.check_new(out)
    run = runs.Run(out, config)
    try:
        for name in ("best", "last"):
            checkpoints.save_checkpoint(run.checkpoint(name), {"step": 0, "objective": module.state_dict()})
        runs.write_config(out, config)
    except UserError:  # a full disk: leave no partial run
        shutil.rmtree(out / runs.CHECKPOINTS, ignore_errors=True)
        raise
    note(f"imported {len(state_dict)} tensors; next: {command_line(['pyro-sri', 'sample', str(out)])}")


def read_state_dict(file: Path) -> Mapping[str, torch.Tensor]:
    """Reads the state dict from a file that is one, or from a checkpoint that contains one.

    Raises:
        UserError: If the file is missing or damaged, contains code, or does not contain a state dict.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}; name a file that torch.save has written")
    try:
        content: Any = load_torch_file(file)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(
            f"{file} cannot be read as weights: it is damaged, or contains something other than tensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("objective"), dict):
        raise UserError(f"{file} is a checkpoint of this library: name its run directory in sample or evaluate")
    candidates = [content, *(content.values() if isinstance(content, dict) else [])]
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(torch.is_tensor(v) for v in candidate.values()):
            return candidate
    raise UserError(f"{file} does not contain a state dict, which maps parameter names to tensors")


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(import_weights, "pyro-sri import-weights", args)
