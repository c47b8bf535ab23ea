"""The commands behind `pyro-sri`."""
