import math

import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ConfigError
from deepmodels.layers.rotary import Divided, Linear, Llama3, Rope, Yarn, rotate

POSITIONS = jnp.arange(12, dtype=jnp.int32)[None]


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_depend_on_the_distance_alone(interleaved, float64):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(np.tile(rng.normal(size=8), (1, 12, 1, 1))) for _ in range(2))
    rotation = Rope(100.0).rotation(POSITIONS, 8, jnp.float64)
    turned = (rotate(x, rotation, interleaved=interleaved)[0, :, 0] for x in (query, key))
    products = np.einsum("TD,SD->TS", *turned)
    for distance in range(-11, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0])
    assert np.ptp(products[0]) > 0.1
    assert products[3, 3] == pytest.approx(float((query[0, 0] * key[0, 0]).sum()))


def test_pairs_turn_by_the_angle_of_their_position(float64):
    x = jnp.asarray([[[[1.0, 2.0, 3.0, 4.0]]]])
    rotation = Rope(100.0).rotation(jnp.asarray([[5]]), 4, jnp.float64)
    fast, slow = 5.0, 5.0 / 10  # angles: 100^0 and 100^(-1/2) per position
    first = complex(1, 3) * np.exp(1j * fast), complex(2, 4) * np.exp(1j * slow)
    expected = [first[0].real, first[1].real, first[0].imag, first[1].imag]
    np.testing.assert_allclose(rotate(x, rotation)[0, 0, 0], expected)
    beside = complex(1, 2) * np.exp(1j * fast), complex(3, 4) * np.exp(1j * slow)
    expected = [beside[0].real, beside[1].real, beside[0].imag, beside[1].imag]
    np.testing.assert_allclose(rotate(x, rotation, interleaved=True)[0, 0, 0], expected)


def test_linear_scaling_divides_positions(float64):
    scaled, plain = Rope(100.0, Linear(4.0)), Rope(100.0)
    for ours, theirs in zip(
        scaled.rotation(4 * POSITIONS, 8, jnp.float64), plain.rotation(POSITIONS, 8, jnp.float64), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)


def test_llama_3_keeps_fast_frequencies_and_divides_slow_ones():
    plain, _ = Rope(500_000.0).frequencies(128)
    scaled, factor = Rope(500_000.0, Llama3(8.0, 1.0, 4.0, 8192)).frequencies(128)
    turns = 8192 * plain / (2 * math.pi)
    assert factor == 1
    np.testing.assert_array_equal(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_array_equal(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns < 4) & (turns > 1)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_yarn_keeps_fast_frequencies_divides_slow_ones_and_sharpens():
    plain, _ = Rope(10_000.0).frequencies(64)
    for truncate in (True, False):
        scaled, factor = Rope(10_000.0, Yarn(40.0, 4096, truncate=truncate)).frequencies(64)
        turns = 4096 * plain / (2 * math.pi)
        np.testing.assert_array_equal(scaled[turns > 45], plain[turns > 45])
        np.testing.assert_allclose(scaled[turns < 0.7], plain[turns < 0.7] / 40)
        assert factor == pytest.approx(0.1 * math.log(40) + 1)
    assert Rope(10_000.0, Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0)).frequencies(64)[1] == 1
    assert Rope(10_000.0, Yarn(40.0, 4096, attention_factor=1.5)).frequencies(64)[1] == 1.5
    cos, sin = Rope(10_000.0, Yarn(40.0, 4096)).rotation(POSITIONS, 64, jnp.float32)
    np.testing.assert_allclose(np.sqrt(cos**2 + sin**2), 0.1 * math.log(40) + 1, rtol=1e-5)


def test_frequencies_divided_one_by_one():
    plain, _ = Rope(100.0).frequencies(4)
    np.testing.assert_allclose(Rope(100.0, Divided((2.0, 5.0))).frequencies(4)[0], plain / [2, 5])
    with pytest.raises(ConfigError, match="expected 4 divisors, got 2"):
        Rope(100.0, Divided((2.0, 5.0))).frequencies(8)


def test_plain_data():
    said = {"theta": 5e5, "scaling": {"kind": "llama3", "factor": 8.0, "low_frequency_factor": 1.0}}
    said["scaling"] |= {"high_frequency_factor": 4.0, "original_length": 8192}
    assert Rope.of(said) == Rope(5e5, Llama3(8.0, 1.0, 4.0, 8192))
    assert Rope.of({}) == Rope()
    with pytest.raises(ConfigError, match="unknown scaling of rope 'linar': did you mean 'linear'"):
        Rope.of({"scaling": {"kind": "linar"}})
    with pytest.raises(ConfigError, match="unknown entry of rope 'thetta': did you mean 'theta'"):
        Rope.of({"thetta": 1.0})
    with pytest.raises(ConfigError, match="scaling of rope 'yarn': original_length missing"):
        Rope.of({"scaling": {"kind": "yarn", "factor": 2.0}})
    with pytest.raises(ConfigError, match="head_size: expected an even number"):
        Rope().frequencies(7)
