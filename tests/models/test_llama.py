"""Llama's lineage: what a cache gives, which tokens see which, how experts are chosen, and that the small ones learn.

tests/weights/test_llama_parity.py compares with transformers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.analysis import intermediates
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers.rotary import Linear, Rope
from deepmodels.layers.stack import unstack
from deepmodels.models import MODELS, create
from deepmodels.models.llama import Llama, Mixture, Window

TINY = [name for name in MODELS if MODELS[name].family in ("llama", "deepseek") and name.endswith("_tiny")]
LENGTHS = np.array([20, 7, 1], np.int32)


def variables_of(model, seed=0):
    """Random ones of all kinds, so that no scale is 1 and no bias 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), dict(shapes))


def words(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 32, shape).astype(np.int32)


def size(function, *arguments):
    return len(jax.jit(function).lower(*arguments).as_text().splitlines())


@pytest.mark.parametrize("name", TINY)
def test_a_cache_gives_what_the_whole_text_does(name):
    """Unequal prompts at once, appended in one piece, in two, and token by token; the padding changes nothing."""
    model = create(name)
    variables, tokens = variables_of(model), words(3, 20)
    mask = np.arange(20)[None] < LENGTHS[:, None]
    whole = np.asarray(jax.jit(model.apply)(variables, tokens, mask))
    extend = jax.jit(lambda *a: model.apply(variables, *a, last=False, method="extend"))
    close = dict(rtol=1e-4, atol=1e-4)

    once, cache = extend(tokens, model.start(3, 24), LENGTHS)
    np.testing.assert_allclose(once[mask], whole[mask], **close)
    np.testing.assert_array_equal(cache["position"], LENGTHS)

    other = np.where(mask, tokens, 31 - tokens)
    again, _ = extend(other, model.start(3, 24), LENGTHS)
    np.testing.assert_array_equal(again[mask], once[mask])

    apart = unstack(variables)  # as decoding takes parameters on a CPU
    step = jax.jit(lambda tokens, cache: model.apply(apart, tokens, cache, method="step"))
    cache = model.start(3, 24)
    first = np.minimum(LENGTHS, 5)
    early, cache = extend(tokens[:, :5], cache, first)
    np.testing.assert_allclose(early[0], whole[0, :5], **close)
    for position in range(5, 20):  # rows that have ended go on, and are set back
        logits, ahead = step(tokens[:, position], cache)
        goes_on = position < LENGTHS
        cache = ahead | {"position": np.where(goes_on, ahead["position"], cache["position"])}
        np.testing.assert_allclose(logits[goes_on], whole[goes_on, position], **close)


def test_a_cache_in_int8_is_close():
    model = create("gemma3_tiny")
    variables, tokens = variables_of(model), words(2, 12)
    exact, quantized = (
        model.apply(variables, tokens, model.start(2, 16, quantized=quantized), last=False, method="extend")
        for quantized in (False, True)
    )
    assert {array.dtype.name for array in quantized[1].values()} == {"int8", "float32", "int32"}
    error = np.abs(exact[0] - quantized[0]).max() / np.abs(exact[0]).max()
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", TINY)
def test_packed_documents_are_as_if_alone(name):
    model = create(name)
    variables, tokens = variables_of(model), words(1, 12)
    documents = np.array([[1] * 5 + [2] * 4 + [0] * 3], np.int32)
    packed = jax.jit(lambda t, d: model.apply(variables, t, None, d))(tokens, documents)
    for start, end in ((0, 5), (5, 9)):
        alone = model.apply(variables, tokens[:, start:end])
        np.testing.assert_allclose(packed[:, start:end], alone, rtol=1e-4, atol=1e-4)


def test_which_layers_see_which_tokens():
    model = create("gemma3_tiny", num_layers=5, window=Window(3, 2))
    weights = intermediates(model, variables_of(model), words(1, 8), pattern="*attention/weights")
    (weights,) = weights.values()
    index = np.arange(8)
    causal = index[:, None] >= index[None]
    near = causal & (index[:, None] - index[None] < 3)
    for layer, seen in enumerate([near, causal, near, causal, near]):
        np.testing.assert_array_equal(np.asarray(weights[layer]) > 0, np.broadcast_to(seen, (1, 4, 8, 8)))
    buffers = model.start(1, 100)
    assert {name: buffer.shape[1:3] for name, buffer in buffers.items() if buffer.ndim > 1} == {
        "window_keys": (3, 19),
        "window_values": (3, 19),
        "keys": (2, 100),
        "values": (2, 100),
    }


def test_positions_can_be_given():
    model = create("llama_tiny")
    variables, tokens = variables_of(model), words(1, 6)
    moved = model.apply(variables, tokens, positions=np.arange(6, dtype=np.int32)[None] + 7)
    np.testing.assert_allclose(moved, model.apply(variables, tokens), rtol=1e-4, atol=1e-4)  # only distances count
    apart = model.apply(variables, tokens, positions=2 * np.arange(6, dtype=np.int32)[None])
    assert np.abs(apart - moved).max() > 1e-2


@pytest.mark.parametrize("name", ["llama_tiny", "gemma3_tiny"])
def test_hidden_states_and_their_projection_are_the_logits(name):
    model = create(name, logit_soft_cap=2.0)
    variables, tokens = variables_of(model), words(2, 5)
    unprojected = model.apply(variables, tokens, project=False)
    assert unprojected.hidden.shape == (2, 5, 16)
    logits = model.apply(variables, tokens)
    np.testing.assert_allclose(unprojected.logits(unprojected.hidden[:, 3:]), logits[:, 3:], rtol=1e-6)
    assert 1 < np.abs(logits).max() < 2


@pytest.mark.parametrize("name", TINY)
def test_the_small_ones_learn(name):
    model, tokens = create(name), words(8, 8)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    params, rest = variables.pop("params"), variables
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, rest, state):
        def loss_of(params):
            collections = ["losses", *rest]
            logits, updated = model.apply({"params": params, **rest}, tokens, train=True, mutable=collections)
            sown = sum(leaf.sum() for leaf in jax.tree.leaves(updated.pop("losses", {})))
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()
            return entropy + 0.01 * sown, (entropy, updated)

        grads, (entropy, rest) = jax.grad(loss_of, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), rest, state, entropy

    state = optimizer.init(params)
    for _ in range(150):
        params, rest, state, entropy = step(params, rest, state)
    assert entropy < 0.6  # what follows a first token can only be learnt by heart; it begins at 3.5


def test_balance_is_sown_only_where_it_is_asked_for():
    model = create("mixtral_tiny")
    tokens = words(2, 6)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    assert variables.keys() == {"params"}
    _, sown = model.apply(variables, tokens, mutable=["losses"])
    (loss,) = sown["losses"]["layers"]["mlp"]["router"]["load_balancing"]
    assert loss.shape == (2,)
    assert ((loss > 1) & (loss < 4)).all()  # 2 choices: 2 where all are alike, 4 where all go to the same two


def test_programs_dont_grow_with_depth():
    tokens = words(1, 6)
    for arguments in ({}, {"window": Window(3, 2, Rope(1000.0))}):
        sizes = []
        for layers in (4, 12):
            model = create("llama_tiny", num_layers=layers, **arguments)
            variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
            cache = model.start(1, 24)
            sizes.append(
                (
                    size(model.apply, variables, tokens),
                    size(lambda *a: model.apply(*a, method="extend"), variables, tokens, cache),  # noqa: B023
                )
            )
        assert sizes[0] == sizes[1]


def test_remat_and_unroll_change_nothing(float64):
    tokens = words(2, 6)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables_of(create("gemma3_tiny")))

    def gradients(**arguments):
        model = create("gemma3_tiny", **arguments)
        return jax.jit(jax.grad(lambda v: (model.apply(v, tokens) ** 2).sum()))(variables)

    plain = gradients()
    for arguments in ({"remat": "full"}, {"unroll": 2}):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), gradients(**arguments), plain)


def test_parts_as_plain_data():
    said = create(
        "llama_tiny",
        rope={"theta": 5e5, "scaling": {"kind": "linear", "factor": 8.0}},
        window={"size": 4, "global_every": 2, "rope": {"theta": 100.0}},
        mixture={"num_experts": 4, "num_chosen": 1},
    )
    assert said.rope == Rope(5e5, Linear(8.0))
    assert said.window == Window(4, 2, Rope(100.0))
    assert said.mixture == Mixture(4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads: 3 doesn't divide hidden_size, which is 16"),
        ({"num_kv_heads": 3}, "num_kv_heads: 3 doesn't divide num_heads, which is 4"),
        ({"head_size": 3}, "head_size: expected an even number of channels to rotate, got 3"),
        ({"gate_function": "swigul"}, "unknown gate_function 'swigul': did you mean 'swiglu'"),
        ({"mixture": Mixture(4, 5)}, "mixture: expected to choose 1 to 4 experts, got 5"),
        ({"window": Window(0)}, "window: expected a size of 1 or more"),
        ({"window": Window(4, 1)}, "global_every of 2 or more"),
        ({"window": {"sice": 4}}, "unknown entry of window 'sice': did you mean 'size'"),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(create("llama_tiny", **arguments).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))


def test_inputs_that_dont_fit():
    model, tokens = Llama(32, 16, 1, num_heads=2, mlp_size=8), jnp.zeros((2, 4), jnp.int32)
    init = lambda **given: jax.eval_shape(model.init, jax.random.key(0), tokens, **given)  # noqa: E731
    with pytest.raises(ShapeError, match="mask: expected bools of shape \\(2, 4\\)"):
        init(mask=jnp.ones((2, 3), bool))
    with pytest.raises(ShapeError, match="documents: expected integers of shape \\(2, 4\\)"):
        init(documents=jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ShapeError, match="positions: expected shape \\(2, 4\\), got \\(4,\\)"):
        init(positions=jnp.arange(4))
