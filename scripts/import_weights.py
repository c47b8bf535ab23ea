"""`pyro-sri import-weights`: the authors' published weights as a run."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from pyro.infer.elbo import ELBOModule

from pyro_sri import checkpoints, runs
from pyro_sri.config import SRIConfig
from pyro_sri.nn import Kernel
from pyro_sri.official import load_sri
from pyro_sri.scripts.cli import note, parse
from pyro_sri.system.errors import UserError
from pyro_sri.system.torch_files import is_finite, load_torch_file


def import_weights(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    /,
    out: Path,
    image_size: int,
    num_slots: int,
    kernel: Kernel = "gaussian",
    semiconv: bool = True,
    pixel_std: float = 0.7,
    likelihood: Literal["mog", "gaussian"] = "mog",
    dataset: str = "unknown",
) -> None:
    """Turn the authors' published SRI weights into a run.

    No code in the file is run. Network sizes are read from the weights where possible; give the others as options.
    The run can be sampled, evaluated and reported like one trained here.

    For example:

    pyro-sri import-weights sri.pth --out runs/official --image-size 64 --num-slots 9

    Args:
        file: The state dict, or a checkpoint that holds one, as saved by torch.save.
        out: Run directory, new or empty.
        image_size: Side of the images that the networks were trained on, in pixels.
        num_slots: K, the number of slots.
        kernel: Kernel of the instance colouring.
        semiconv: Whether the instance colours are semi-convolutional.
        pixel_std: sigma, the pixel standard deviation.
        likelihood: The image likelihood that the networks were trained with.
        dataset: Name of the data that they were trained on, for the record.
    """
    state_dict = read_state_dict(file)
    model, guide = load_sri(
        state_dict,
        image_size=image_size,
        num_slots=num_slots,
        kernel=kernel,
        semiconv=semiconv,
        pixel_std=pixel_std,
        likelihood=likelihood,
    )
    config = SRIConfig(
        preset="imported",
        dataset=dataset,
        image_size=image_size,
        steps=0,
        num_slots=num_slots,
        slot_size=model.slot_prior.loc.out_features,
        scene_size=model.scene_prior.size,
        attention_layers=guide.num_layers,
        kernel=kernel,
        colour_start="position" if semiconv else "none",
        pixel_std=pixel_std,
        likelihood=likelihood,
        normalised=likelihood == "mog",
        geco="none",
    )
    _, _, objective = config.build()
    module = ELBOModule(model.float(), guide.float(), objective)
    if not all(map(is_finite, module.state_dict().values())):
        raise UserError(f"{file} holds values that are not finite in single precision: use other weights")
    runs.check_new(out)
    run = runs.Run(out, config)
    try:
        for name in ("best", "last"):
            checkpoints.save_checkpoint(run.checkpoint(name), {"step": 0, "objective": module.state_dict()})
        runs.write_config(out, config)
    except UserError:  # a full disk: nothing half-done stays
        shutil.rmtree(out / runs.CHECKPOINTS, ignore_errors=True)
        raise
    note(f"imported {len(state_dict)} tensors; next: pyro-sri sample {out}")


def read_state_dict(file: Path) -> Mapping[str, torch.Tensor]:
    """The state dict in a file: the whole of it, or the one entry of a checkpoint that is one.

    Raises:
        UserError: If the file is missing, damaged, holds code, or does not hold a state dict.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        content: Any = load_torch_file(file)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{file} cannot be read as weights: it is damaged, or holds more than tensors") from error
    candidates = [content, *(content.values() if isinstance(content, dict) else [])]
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(torch.is_tensor(v) for v in candidate.values()):
            return candidate
    raise UserError(f"{file} does not hold a state dict: it must map parameter names to tensors")


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(import_weights, "pyro-sri import-weights", args)
