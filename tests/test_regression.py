import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives
from deepmodels.errors import ShapeError

OUTPUTS = jnp.array([[1.0, 2.0], [0.5, 0.0], [3.0, 3.0]])
BATCH = {"inputs": jnp.zeros((3, 4, 1)), "target": jnp.array([[1.0, 2.0], [0.5, 0.1], [1.0, 3.0]])}


def forward(inputs, key=None, mask=None):
    return OUTPUTS if mask is None else OUTPUTS * mask[:, :1], {}


def test_squared_error_and_who_is_near_enough():
    regression = objectives.create("regression")
    loss, (metrics, _) = regression(forward, BATCH, None)
    np.testing.assert_allclose(loss, np.mean([0, 0, 0, 0.01, 4, 0]), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], 1 / 3)
    np.testing.assert_allclose(
        objectives.create("regression", tolerance=0.2)(forward, BATCH, None)[1][0]["accuracy"], 2 / 3
    )
    loss, (metrics, _) = regression(forward, BATCH | {"example_mask": jnp.array([1.0, 1.0, 0.0])}, None)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (0.0025, 0.5), rtol=1e-5)


def test_the_mask_is_given_by_name():
    mask = jnp.array([[1.0], [0.0], [1.0]])
    loss, _ = objectives.create("regression")(forward, BATCH | {"mask": mask}, None)
    np.testing.assert_allclose(loss, np.mean([0, 0, 0.25, 0.01, 4, 0]), rtol=1e-6)


def test_a_half_precise_output_is_compared_in_float32():
    forward = lambda inputs, key: (jnp.ones((1, 1), jnp.bfloat16), {})  # noqa: E731
    loss, _ = objectives.create("regression")(forward, {"inputs": None, "target": jnp.full((1, 1), 1.001)}, None)
    np.testing.assert_allclose(loss, 1e-6, rtol=1e-2)


def test_targets_of_another_shape_are_an_error():
    with pytest.raises(ShapeError, match=r"target: expected shape \(3, 2\), as the outputs, got \(3,\)"):
        jax.eval_shape(lambda: objectives.create("regression")(forward, BATCH | {"target": jnp.zeros(3)}, None))
