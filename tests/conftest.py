"""Hostile settings: eight virtual devices, strict dtype and rank promotion, warnings are errors (pyproject.toml)."""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the tests' time, and LLVM's optimisations are two thirds of compiling.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
).strip()
os.environ.setdefault("DEEPMODELS_CACHE", os.path.expanduser("~/.cache/deepmodels-tests"))

import jax
import pytest

from deepmodels import cache
from deepmodels.training import report

cache.enable()  # one for all tests and all runs of them
report.DPI, report.SHOWN = 20, 4  # drawing was a quarter of a run's time; test_report.py draws as runs do
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Runs a test in float64, where sharded and unsharded runs can be compared closely."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tiny_config():
    """Returns a function that makes a config which trains in a second, with top-level values replaced."""

    def make(**values) -> dict:
        return {
            "steps": 6,
            "model": {"name": "lenet_tiny", "num_classes": 10},
            "data": {"name": "fashion_mnist_embedded", "batch_size": 16, "mean": 0.286, "std": 0.353},
            "optimizer": {"name": "momentum", "learning_rate": 0.05},
            "every": {"log": 2, "evaluate": 3, "checkpoint": 2},
        } | values

    return make


@pytest.fixture(scope="session")
def load_script():
    """Returns a function that imports a file which isn't in a package, by its path from the root of the repository."""

    def load(path: str):
        file = Path(__file__).parent.parent / path
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
