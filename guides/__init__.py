"""Pyro guides: one inference story per file."""
