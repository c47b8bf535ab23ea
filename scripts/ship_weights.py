"""Puts the weights of a run into the package, so that its preset's name stands for them: for maintainers."""

import argparse
import dataclasses
from pathlib import Path

from pyro_sri import checkpoints, runs
from pyro_sri.config import to_yaml
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically


def ship(run_path: Path) -> Path:
    """Copies a run's configuration (without its data file), log and best weights (without the optimiser).

    Args:
        run_path: A run directory.

    Returns:
        Where they stand now, replacing those that stood there.

    Raises:
        UserError: If it is not a run, or not of a preset.
    """
    run = runs.open_run(run_path)
    target = runs.WEIGHTS / run.config.preset
    checkpoint = checkpoints.load_checkpoint(run.checkpoint())
    if run.config.preset not in PRESETS:
        raise UserError(f"{run_path} is a run of '{run.config.preset}': there is no such preset")
    config = dataclasses.replace(run.config, data=None)
    shipped = {"step": checkpoint["step"], "objective": checkpoints.evaluated_weights(checkpoint)}
    checkpoints.save_checkpoint(runs.Run(target, config).checkpoint(), shipped)
    write_atomically(target / runs.CONFIG, lambda file: file.write(to_yaml(config).encode()))
    write_atomically(target / runs.LOG, lambda file: file.write((run.path / runs.LOG).read_bytes()))
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    print(ship(parser.parse_args().run))
