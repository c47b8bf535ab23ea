"""`python -m pyro_sri` is `pyro-sri`."""

from pyro_sri.scripts.main import main

main()
