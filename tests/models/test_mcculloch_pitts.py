import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ShapeError
from deepmodels.models.mcculloch_pitts import NETS, McCullochPitts

FUNCTIONS = {
    "and": (2, lambda a, b: a and b),
    "or": (2, lambda a, b: a or b),
    "not": (1, lambda a: not a),
    "nor": (2, lambda a, b: not (a or b)),
    "nand": (2, lambda a, b: not (a and b)),
    "majority": (3, lambda a, b, c: a + b + c >= 2),
    "xor": (2, lambda a, b: a != b),
}


def test_every_net_has_a_truth_table():
    assert FUNCTIONS.keys() == NETS.keys()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [jnp.int32, bool, jnp.float32])
def test_truth_table(name, dtype):
    size, function = FUNCTIONS[name]
    rows = list(itertools.product((0, 1), repeat=size))
    out = McCullochPitts(NETS[name]).apply({}, jnp.array(rows, dtype))
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[:, 0], [int(function(*row)) for row in rows])


def test_one_active_inhibitory_input_vetoes_any_excitation():
    model = McCullochPitts(((((0, 1, 2), (3, 4), 1),),))
    excited = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(model.apply({}, excited)[:, 0], [1, 0, 0, 0])


def test_a_repeated_index_counts_twice():
    np.testing.assert_array_equal(McCullochPitts(((((0, 0), (), 2),),)).apply({}, jnp.array([[1], [0]])), [[1], [0]])


def test_too_few_inputs_are_an_error():
    with pytest.raises(ShapeError, match=r"inputs: expected shape \(batch, 3\) or wider, got \(4, 2\)"):
        McCullochPitts(NETS["majority"]).apply({}, jnp.zeros((4, 2)))
