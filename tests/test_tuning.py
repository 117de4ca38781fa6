from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import tuning

IMAGE, KERNEL = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1), np.ones((3, 3, 1, 2), np.float32)


def convolution():
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    return jax.jit(partial(convolve, dimension_numbers=("NHWC", "HWIO", "NHWC"))).lower(IMAGE, KERNEL)


def test_a_program_without_convolutions_compiles_with_none():
    options = tuning.PROFILES["cpu"].options
    assert tuning.profile().startswith(f"cpu {tuning.PROFILES['cpu'].version}, with stablehlo.convolution: ")
    assert all(f"{name}={value}" in tuning.profile() for name, value in options.items())
    x = jnp.arange(6.0).reshape(2, 3)
    lowered = jax.jit(lambda x: (x @ x.T).sum()).lower(x)
    assert tuning.compiler_options(lowered) == {}
    np.testing.assert_allclose(tuning.compile(lowered)(x), (np.asarray(x) @ np.asarray(x).T).sum())


def test_a_program_with_convolutions_compiles_with_the_options_and_computes_the_same():
    lowered = convolution()
    assert tuning.compiler_options(lowered) == tuning.PROFILES["cpu"].options
    np.testing.assert_allclose(tuning.compile(lowered)(IMAGE, KERNEL)[0, 1, 1], np.full(2, 63.0))


def test_versions_that_nobody_tried_get_no_options(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.99.0")
    assert tuning.compiler_options(convolution()) == {}
    assert tuning.profile() == "none"
