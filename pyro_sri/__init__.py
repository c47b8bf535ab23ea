"""SRI (Segregate, Relate, Imagine) and its family of slot VAEs as Pyro programs."""

__version__ = "0.1.0"
