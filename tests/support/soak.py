"""A soak: thousands of training steps of a preset at a tiny size, through the whole loop, with the memory noted.

One run is one process, so that its memory is its own:

    PYTHONPATH=tests python -m support.soak sri-mog-shapestacks --seed 0 --steps 10000 --out soaks

leaves soaks/sri-mog-shapestacks-0.jsonl, one line every 50 steps: the line of the run's log, and the resident memory.
Such files are summed up by

    PYTHONPATH=tests python -m support.soak --summarise soaks
"""

import argparse
import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from pyro_sri.config import RunConfig
from pyro_sri.data.making import make_dataset
from pyro_sri.presets import find_preset
from pyro_sri.training.loop import train

BATCH_SIZE = 2
LOG_EVERY = 50
SETTLED = 500  # steps after which everything has happened twice: pictures, validation, checkpoints
BYTES_PER_MB = 1024**2


def tiny(preset: str, data: Path, **fields: object) -> RunConfig:
    """A preset at its tiny size, without a warm-up: its full learning rate from the first step is harder.

    Args:
        preset: Name of the preset.
        data: The file to train on.
        **fields: Further fields of the configuration.
    """
    config = find_preset(preset).config.tiny()
    bookkeeping = {"log_every": LOG_EVERY, "validate_every": 250, "picture_every": 250, "checkpoint_every": 250}
    shared = {"data": data, "batch_size": BATCH_SIZE, "validation_images": 8, "warmup_steps": 0, "device": "cpu"}
    return dataclasses.replace(config, **bookkeeping | shared | fields)


def soak(config: RunConfig, run: Path, log: Path) -> None:
    """Trains, and notes every line of the run's log, as it comes, with the memory of this process.

    Args:
        config: The run.
        run: Its directory, new.
        log: The file to write.
    """
    with log.open("w") as file:

        def note(step: int, line: dict[str, float] | None) -> None:
            if line is not None:
                file.write(json.dumps({"step": step, **line, "resident_mb": resident_mb()}) + "\n")
                file.flush()

        train(config, run, progress=note)


def resident_mb() -> float:
    """The resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / BYTES_PER_MB


@dataclass(frozen=True)
class Summary:
    """What a soak came to.

    Attributes:
        steps: The last step noted.
        first_loss: Mean loss of the first line.
        final_loss: Mean loss over the last tenth of the lines.
        largest_loss: The largest |loss| of a line.
        first_nll: Mean NLL of the first line, in nats per image.
        final_nll: That over the last tenth of the lines.
        largest_nll: The largest of a line.
        betas: For every controller the least, the largest and the last weight.
        growth_mb: Median resident memory of the last quarter of the lines from `SETTLED` steps on, less that of the
            first quarter; 0 where there are too few.
    """

    steps: int
    first_loss: float
    final_loss: float
    largest_loss: float
    first_nll: float
    final_nll: float
    largest_nll: float
    betas: dict[str, tuple[float, float, float]]
    growth_mb: float


def summarise(log: Path) -> Summary:
    """Sums up a soak.

    Args:
        log: What `soak` wrote.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    last = lines[-max(1, len(lines) // 10) :]
    memory = [line["resident_mb"] for line in lines if line["step"] >= SETTLED]
    quarter = len(memory) // 4
    weights = {name: [line[name] for line in lines] for name in lines[0] if name.startswith("beta")}
    return Summary(
        steps=lines[-1]["step"],
        first_loss=lines[0]["loss"],
        final_loss=sum(line["loss"] for line in last) / len(last),
        largest_loss=max(abs(line["loss"]) for line in lines),
        first_nll=lines[0]["nll"],
        final_nll=sum(line["nll"] for line in last) / len(last),
        largest_nll=max(line["nll"] for line in lines),
        betas={name: (min(values), max(values), values[-1]) for name, values in weights.items()},
        growth_mb=median(memory[-quarter:]) - median(memory[:quarter]) if quarter else 0.0,
    )


def main() -> None:
    """Runs one soak, or sums up those in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", help="name of a preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--learning-rate", type=float, help="another one than the preset's")
    parser.add_argument("--out", type=Path, default=Path("soaks"))
    parser.add_argument("--summarise", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.summarise is not None:
        for log in sorted(given.summarise.glob("*.jsonl")):
            print(log.stem, summarise(log))
        return
    if given.preset is None:
        parser.error("which preset? or --summarise FOLDER")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    fields = {} if given.learning_rate is None else {"learning_rate": given.learning_rate}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.h5"
        config = tiny(given.preset, data, seed=given.seed, steps=given.steps, **fields)
        make_dataset(config.dataset, data, size=config.image_size, train=256, val=16, test=0)
        soak(config, Path(folder) / "run", given.out / f"{given.preset}-{given.seed}.jsonl")


if __name__ == "__main__":
    main()
