import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels import trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import ctc, recurrent, seq2seq
from deepmodels.models.recurrent import RecurrentLanguageModel, RecurrentNetwork
from deepmodels.sampling import beam_search

VARIANTS = {**recurrent.VARIANTS, **seq2seq.VARIANTS, **ctc.VARIANTS}
TINY = [name for name in VARIANTS if name.endswith("_tiny")]


def create(name, **overrides):
    return VARIANTS[name].cls(**VARIANTS[name].arguments | overrides)


def abstract(name, batch=2):
    return [jax.ShapeDtypeStruct((batch, *spec.shape), spec.dtype) for spec in VARIANTS[name].inputs.values()]


def shapes(name, **overrides):
    return jax.eval_shape(create(name, **overrides).init, jax.random.key(0), *abstract(name))


def random_inputs(name, batch):
    """Vectors, or tokens of the source and then of the target, as many kinds as the model knows."""
    rng, model = np.random.default_rng(0), create(name)
    kinds = {"tokens": "vocab_size", "targets": "target_vocab_size"}
    return [
        rng.normal(size=(batch, *spec.shape)).astype(np.float32)
        if key == "inputs"
        else rng.integers(0, getattr(model, kinds[key]), (batch, *spec.shape), np.int32)
        for key, spec in VARIANTS[name].inputs.items()
    ]


def random_variables(name, scale=0.3, **overrides):
    rng = np.random.default_rng(1)
    tree = shapes(name, **overrides)
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), tree)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_to_the_unit(name):
    assert trees.count(shapes(name)["params"]) == VARIANTS[name].parameters
    assert list(shapes(name)) == ["params"]


@pytest.mark.parametrize("name", ["lstm_tiny", "lstm_ptb_tiny", "bahdanau_tiny", "ctc_tiny"])
def test_overfits_eight_examples(name):
    model, inputs = create(name), random_inputs(name, 8)
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    logits_shape = jax.eval_shape(model.apply, variables, *inputs).shape
    rng = np.random.default_rng(2)
    labels = rng.integers(0, logits_shape[-1], logits_shape[:-1])
    if name == "lstm_ptb_tiny":  # what two examples share must have the same answer
        inputs[0][:, 0] = np.arange(8)
    if "targets" in VARIANTS[name].inputs:
        inputs[0][:, -1] = np.arange(8)
    optimizer = optax.adam(2e-2)

    @jax.jit
    def steps(variables, opt_state):
        def step(carry, _):
            variables, opt_state = carry

            def loss_fn(variables):
                logits = model.apply(variables, *inputs, train=True, rngs={"dropout": jax.random.key(0)})
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            loss, grads = jax.value_and_grad(loss_fn)(variables)
            with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
                updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(variables, updates), opt_state), loss

        return jax.lax.scan(step, (variables, opt_state), None, length=200)[1]

    assert steps(variables, optimizer.init(variables))[-1] < 0.02


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype == np.float32 else jnp.asarray(x), tree)


@pytest.mark.parametrize("name", TINY)
def test_no_other_float_is_computed_in_than_the_one_that_comes_in(name, float64):
    model, inputs, variables = create(name), random_inputs(name, 3), random_variables(name)
    gradient = jax.grad(lambda variables, *inputs: model.apply(variables, *inputs).sum())
    for dtype in ("float32", "float64"):
        text = str(jax.make_jaxpr(gradient)(*cast((variables, *inputs), dtype)))
        assert set(re.findall(r":b?f\d+", text)) == {f":f{dtype[-2:]}"}


@pytest.mark.parametrize("name", ["lstm_tiny", "gru_tiny", "luong_tiny"])
def test_computes_in_bfloat16_about_what_it_does_in_float64(name, float64):
    model, inputs, variables = create(name), random_inputs(name, 3), random_variables(name)
    run = jax.jit(model.apply)
    double, half = (run(*cast((variables, *inputs), dtype)) for dtype in (jnp.float64, jnp.bfloat16))
    assert (double.dtype, half.dtype) == (jnp.float64, jnp.bfloat16)
    np.testing.assert_allclose(half.astype(jnp.float64), double, rtol=0, atol=0.05 * np.abs(double).max())


@pytest.mark.parametrize("name", TINY)
def test_what_is_behind_the_mask_changes_nothing(name):
    model, inputs, variables = create(name), random_inputs(name, 3), random_variables(name)
    masks = [np.arange(x.shape[1])[None] < np.array([x.shape[1], 2, 1])[:, None] for x in inputs]
    other = [
        np.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, np.roll(x, 1, 0))
        for x, mask in zip(inputs, masks, strict=True)
    ]
    run = jax.jit(lambda variables, *inputs: model.apply(variables, *inputs, *masks))
    first, second = run(variables, *inputs), run(variables, *other)
    held = masks[-1] if first.ndim == 3 else slice(None)
    np.testing.assert_array_equal(first[held], second[held])
    alone = jax.jit(model.apply)(variables, *[x[1:2, :2] for x in inputs])
    np.testing.assert_allclose(first[1:2, :2] if first.ndim == 3 else first[1:2], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm_tiny", "luong_tiny"])
def test_unrolling_changes_nothing(name):
    inputs, variables = random_inputs(name, 2), random_variables(name)
    outputs = [jax.jit(create(name, unroll=unroll).apply)(variables, *inputs) for unroll in (1, 3)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_the_program_does_not_grow_with_time():
    def equations(length):
        model = create("lstm_ptb_medium")
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return str(jax.make_jaxpr(model.apply)(shapes("lstm_ptb_medium"), tokens)).count(" = ")

    assert equations(1_000) == equations(10)


def test_text_in_parts_is_the_text():
    model, (tokens,), variables = create("lstm_ptb_tiny"), random_inputs("lstm_ptb_tiny", 2), None
    variables = random_variables("lstm_ptb_tiny")

    @jax.jit
    def run(variables, tokens):
        first, state = model.apply(variables, tokens[:, :2], method="decode")
        second, _ = model.apply(variables, tokens[:, 2:], state, method="decode")
        return model.apply(variables, tokens), jnp.concatenate([first, second], 1)

    np.testing.assert_allclose(*run(variables, tokens), rtol=1e-5, atol=1e-6)


def test_beam_search_writes_what_the_model_finds_likely():
    model, variables = create("lstm_ptb_tiny"), random_variables("lstm_ptb_tiny", 1.0)

    @jax.jit
    def search(variables):
        def step(tokens, state):
            logits, state = model.apply(variables, tokens[:, None], state, method="decode")
            return logits[:, 0], state

        zeros = jnp.zeros((2, model.num_layers, model.hidden_size))
        beams = beam_search(
            step, (zeros, zeros), start=1, end=0, batch_size=2, beam_size=3, max_length=5, length_penalty=0.0
        )
        best = beams.tokens[0, 0]
        logits = jax.nn.log_softmax(model.apply(variables, jnp.concatenate([jnp.array([1]), best[:-1]])[None])[0])
        own = jnp.take_along_axis(logits, best[:, None], 1)[:, 0]
        return beams, own.sum(where=jnp.arange(5) < beams.lengths[0, 0])

    beams, log_prob = search(variables)
    np.testing.assert_allclose(beams.scores[0, 0], log_prob, rtol=1e-5)
    np.testing.assert_array_equal(beams.tokens[0], beams.tokens[1])


def test_dropout_is_on_every_way_into_a_layer():
    model, (tokens,) = create("lstm_ptb_tiny", dropout_rate=0.5), random_inputs("lstm_ptb_tiny", 2)
    variables = random_variables("lstm_ptb_tiny")
    dropped = jax.make_jaxpr(lambda t: model.apply(variables, t, train=True, rngs={"dropout": jax.random.key(0)}))(
        tokens
    )
    assert str(dropped).count("name=_bernoulli") == 3  # into each of two layers and into the head


def test_bad_arguments_are_named():
    x, tokens = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), jnp.int32)

    def call(model, *arguments):
        return jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))

    with pytest.raises(ConfigError, match="unknown cell 'gru': did you mean 'gru_2014'"):
        call(RecurrentNetwork("gru", 4), x)
    with pytest.raises(
        ShapeError, match=r"inputs: expected floats of shape \(batch, time, channels\), got float32 \(2, 3\)"
    ):
        call(RecurrentNetwork("gru_2014", 4), x[..., 0])
    with pytest.raises(ShapeError, match=r"mask: expected bools of shape \(2, 3\)"):
        call(RecurrentNetwork("gru_2014", 4), x, jnp.ones((2, 4), bool))
    with pytest.raises(ShapeError, match=r"tokens: expected integers, got float32"):
        call(RecurrentLanguageModel(5, 4), x[..., 0])
    with pytest.raises(ShapeError, match=r"mask: expected bools of shape \(2, 3\)"):
        call(RecurrentLanguageModel(5, 4), tokens, jnp.ones((2, 3)))
