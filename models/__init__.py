"""Pyro models: one generative story per file."""
