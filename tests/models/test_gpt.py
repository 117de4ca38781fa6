"""GPT: what sees what, what packing and padding change, sizes that no machine here holds, learning."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import check_floats, drawn, overfits, shapes, words

from deepmodels import parallel, trees
from deepmodels.analysis import intermediates
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import MODELS, create

TINY = ["gpt_tiny", "gpt3_tiny"]


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.family == "gpt"])
def test_abstractly_at_full_size(name):
    began = time.perf_counter()
    model, length = create(name), MODELS[name].inputs["tokens"].shape[0]
    tokens = jax.ShapeDtypeStruct((8, length), jnp.int32)
    variables = shapes(model, tokens)
    assert trees.count(variables["params"]) == MODELS[name].parameters
    logits = jax.eval_shape(model.apply, variables, tokens)
    assert (logits.shape, logits.dtype) == ((8, length, model.vocab_size), jnp.float32)
    cache = jax.eval_shape(lambda: model.start(8, length))
    last, after = jax.eval_shape(lambda v, t, c: model.apply(v, t, c, method="extend"), variables, tokens, cache)
    assert (last.shape, after) == ((8, model.vocab_size), cache)
    if model.hidden_size > 16:
        mesh = parallel.make_mesh(dict(data=1, fsdp=4, tensor=2))
        placed = trees.flatten(parallel.shardings(variables, mesh))
        for leaf, shape in trees.flatten(variables).items():
            parts = np.prod([mesh.shape[axis] for axis in placed[leaf].spec if axis is not None])
            assert parts > 1 or shape.size < 2**20, f"{leaf} {shape.shape} is whole on every device"
            if leaf.endswith("kernel"):
                assert parts == 8
    assert time.perf_counter() - began < 20


def test_table_2_1():
    rows = [create(name) for name in MODELS if name.startswith("gpt3_") and name != "gpt3_tiny"]
    assert [(m.num_layers, m.hidden_size, m.hidden_size // m.num_heads) for m in rows] == [
        (12, 768, 64), (24, 1024, 64), (24, 1536, 96), (24, 2048, 128),
        (32, 2560, 80), (32, 4096, 128), (40, 5120, 128), (96, 12_288, 128),
    ]  # fmt: skip


def weights_of(model, tokens, **arguments):
    """The attention's weights of each kind of layer, (L, B, N, T, S)."""
    variables = drawn(model, tokens)
    found = intermediates(model, variables, jnp.asarray(tokens), pattern="*attention/weights", **arguments)
    return {name.removeprefix("layers/").removesuffix("attention/weights").strip("/"): x for name, x in found.items()}


def test_layers_of_gpt_3_are_dense_and_banded_in_turn():
    tokens = words(32, 2, 12)
    found = weights_of(create("gpt3_tiny", num_layers=6, window=4), tokens)
    assert set(found) == {"dense", "banded"}
    distance = np.arange(12)[:, None] - np.arange(12)[None]
    for name, seen in (("dense", distance >= 0), ("banded", (distance >= 0) & (distance < 4))):
        weights = np.asarray(found[name])
        assert weights.shape == (3, 2, 2, 12, 12)
        assert ((weights > 0) == seen).all()
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_a_packed_batch_gives_what_its_documents_give(name):
    model = create(name)
    texts = [words(32, 1, length, seed=length) for length in (5, 8, 3)]
    packed = np.concatenate(texts, 1)
    variables, apply = drawn(model, packed), jax.jit(model.apply)
    documents = np.repeat([4, 2, 9], [5, 8, 3])[None]
    together = apply(variables, packed, documents=documents)
    alone = np.concatenate([apply(variables, text) for text in texts], 1)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(apply(variables, packed)) - alone).max() > 0.1


@pytest.mark.parametrize("name", TINY)
def test_padding_on_either_side_changes_nothing(name):
    model, tokens = create(name), words(32, 3, 12)
    variables, apply = drawn(model, tokens), jax.jit(model.apply)
    mask = np.zeros((3, 12), bool)
    places = [slice(0, 7), slice(5, 12), slice(2, 9)]
    for row, place in enumerate(places):
        mask[row, place] = True
    padded = apply(variables, tokens, mask)
    for row, place in enumerate(places):
        alone = apply(variables, tokens[row : row + 1, place])
        np.testing.assert_allclose(padded[row, place], alone[0], rtol=1e-5, atol=1e-5)


def test_logits_in_two_steps_are_those_in_one():
    model, tokens = create("gpt_tiny"), words(32, 2, 6)
    variables = drawn(model, tokens)
    given = model.apply(variables, tokens, project=False)
    np.testing.assert_array_equal(given.logits(), model.apply(variables, tokens))


@pytest.mark.parametrize("name", TINY)
def test_overfits_eight_texts(name):
    tokens = words(32, 8, 4)
    tokens[:, 0] = np.arange(8)  # the first labels have nothing else to go by
    assert overfits(create(name), [tokens], words(32, 8, 4, seed=1))


def test_computes_in_the_float_that_comes_in(float64):  # the other forms are in the contract suite
    check_floats(create("gpt_tiny", post_norm=True), [words(32, 2, 6)])


def test_dropout_drops_by_its_key():
    model, tokens = create("gpt_tiny", dropout_rate=0.5), words(32, 2, 6)
    variables = drawn(model, tokens)
    once, again, other = (
        model.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert np.abs(np.asarray(once - other)).max() > 0.01


def test_what_ends_a_branch_begins_smaller_with_depth():
    model = create("gpt2", num_layers=8, hidden_size=64, num_heads=2, vocab_size=50)
    params = jax.jit(model.init)(jax.random.key(0), words(50, 1, 4))["params"]["layers"]
    for layer, spread in ((params["attention"]["out"], 0.005), (params["dense2"], 0.005), (params["dense1"], 0.02)):
        np.testing.assert_allclose(layer["kernel"].std(), spread, rtol=0.05)


def test_bad_arguments_are_named():
    tokens = words(32, 2, 6)
    with pytest.raises(ConfigError, match="num_layers, window: expected an even number and a positive one, got 3, 4"):
        shapes(create("gpt3_tiny", num_layers=3, window=4), tokens)
    with pytest.raises(ConfigError, match="num_heads: 3 doesn't divide hidden_size, which is 16"):
        shapes(create("gpt_tiny", num_heads=3), tokens)
    with pytest.raises(ShapeError, match="tokens: expected at most 32 positions, got 33"):
        shapes(create("gpt_tiny"), words(32, 2, 33))
    with pytest.raises(ConfigError, match="length: expected at most 32 positions, got 33"):
        create("gpt_tiny").start(1, 33)
