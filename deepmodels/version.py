"""The version of the distribution `deepmodels-jax`."""

__version__ = "0.1.0"
