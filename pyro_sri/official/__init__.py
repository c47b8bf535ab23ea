"""The authors' published weights, read into our models and guides."""

from pyro_sri.official.sri import load_sri, sri_parameter_name

__all__ = ["load_sri", "sri_parameter_name"]
