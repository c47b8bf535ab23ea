"""The entry point `pyro-sri`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from pyro_sri import __version__
from pyro_sri.allocation import keep_freed_memory
from pyro_sri.errors import UserError

# Command -> its module in pyro_sri.scripts (with a function main(args)) and what it does. Imported when asked for.
COMMANDS = {
    "presets": ("presets", "list the runs that ship, with what each needs"),
    "data": ("data", "make, convert, inspect, check and preview datasets"),
    "train": ("train", "train a preset, or continue a run"),
    "evaluate": ("evaluate", "compute every metric of a run on held-out images"),
    "sample": ("sample", "draw scenes from a run's model"),
    "visualize": ("visualize", "draw reconstructions, masks, samples, walks and traversals of a run"),
    "report": ("report", "write one self-contained page about one or several runs"),
    "bench": ("bench", "measure a preset's training step"),
    "import-weights": ("import_weights", "turn the authors' published weights into a run"),
}


def usage() -> str:
    """What `pyro-sri --help` prints."""
    commands = "\n".join(f"  {name:<15} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"""pyro-sri {__version__}: SRI (Segregate, Relate, Imagine) and its family of slot VAEs as Pyro programs.

usage: pyro-sri COMMAND [options]

commands:
{commands}

pyro-sri COMMAND --help explains a command; pyro-sri --version prints the version.

To begin with:
  pyro-sri sample sri-quick --out scenes.png      scenes from the weights that ship
  pyro-sri train sri-quick --out runs/quick       makes its own small dataset and trains on it, half an hour
  pyro-sri evaluate runs/quick                    how well objects come apart on held-out images
  pyro-sri report runs/quick --out report.html    pictures and numbers on one page"""


def run(args: Sequence[str]) -> None:
    """Runs one command line, without the program's name.

    Raises:
        UserError: For any mistake that the user can mend.
    """
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if "--version" in args:
        print(f"pyro-sri {__version__}")
        return
    name, *rest = args
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"commands are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command '{name}': {hint}")
    importlib.import_module(f"pyro_sri.scripts.{COMMANDS[name][0]}").main(rest)


def main() -> None:
    """Runs the command line; exits 2 with one plain line on a mistake."""
    keep_freed_memory()
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"pyro-sri: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # as in `pyro-sri presets | head`
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        print("pyro-sri: interrupted", file=sys.stderr)
        sys.exit(130)
