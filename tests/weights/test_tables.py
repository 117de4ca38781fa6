"""Every table maps every leaf of every model it is for, and each row undoes itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.models import MODELS, create
from deepmodels.weights import OURS, TABLES, detect, table
from deepmodels.weights.convert import from_ours, to_ours


def rows_of(source, name):
    return TABLES[source].get(name, TABLES[source].get(MODELS[name].family))


def one_of_each():
    """The smallest model of each class, and for the residual networks of each block, that a table is for."""
    found = {}
    for source in TABLES:
        for name in sorted(MODELS, key=lambda name: MODELS[name].parameters):
            rows, variant = rows_of(source, name), MODELS[name]
            ours_alone = name.endswith(("_tiny", "_paper")) or "_cifar" in name
            if rows and not ours_alone and variant.parameters < 50e6:
                found.setdefault((id(rows), variant.cls, variant.arguments.get("block")), (source, name))
    return found.values()


def shapes(name):
    inputs = [jnp.zeros((1, *spec.shape), spec.dtype) for spec in MODELS[name].inputs.values()]
    return jax.eval_shape(create(name).init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(("source", "name"), one_of_each())
def test_a_round_trip_is_bitwise(source, name):
    rng = np.random.default_rng(0)
    # bytes instead of floats: a quarter of the memory, and every one of them counts
    ours = jax.tree.map(lambda leaf: np.frombuffer(rng.bytes(leaf.size), np.uint8).reshape(leaf.shape), shapes(name))
    theirs = from_ours(ours, table(source, name, MODELS[name].family))
    assert trees.count(theirs) == trees.count(ours)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rows_of(source, name), ours), ours)
    assert rows_of(detect(theirs, name, MODELS[name].family), name) == rows_of(source, name)


def test_every_table_belongs_to_a_model():
    families = {variant.family for variant in MODELS.values()}
    for source, tables in TABLES.items():
        assert tables.keys() <= families | MODELS.keys(), source


def test_our_own_names_are_detected():
    assert detect(["params/head/kernel"], "resnet18", "resnet") == OURS


def test_unknown_sources_and_families():
    with pytest.raises(ConfigError, match="unknown source of weights 'torchvison': did you mean 'torchvision'"):
        table("torchvison", "resnet18", "resnet")
    with pytest.raises(ConfigError, match=r"no table of torchvision's names for 'mlp'.*'deepmodels'"):
        table("torchvision", "mlp", "mlp")
