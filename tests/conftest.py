"""Hostile settings: eight virtual devices, strict dtype and rank promotion, warnings are errors (pyproject.toml)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("DEEPMODELS_CACHE", os.path.expanduser("~/.cache/deepmodels-tests"))

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Runs a test in float64, where sharded and unsharded runs can be compared closely."""
    with jax.enable_x64(True):
        yield
