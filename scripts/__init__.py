"""The commands behind `pyro-sri`."""

import sys

try:
    import pyro_sri.system  # noqa: F401
except ImportError as error:  # it says which systems there are
    print(f"pyro-sri: {error}", file=sys.stderr)
    sys.exit(2)
