import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.ctc import CTCNetwork
from deepmodels.objectives import ctc
from deepmodels.sampling import ctc_greedy, ctc_prefix_beam

LABELS, TIME = 3, 4


def forward_of(logits):
    return lambda inputs, mask=None, key=None: (logits, {})


def collapse(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_the_sum_over_all_paths(blank, float64):
    rng = np.random.default_rng(0)
    logits, lengths = rng.normal(size=(3, TIME, LABELS)), [4, 3, 2]
    answers = [(1, 1), (1,), ()]
    labels = np.zeros((3, 2), np.int32)
    for row, answer in zip(labels, answers, strict=True):
        row[: len(answer)] = answer
    batch = {
        "inputs": np.zeros((3, TIME, 1)),
        "mask": np.arange(TIME)[None] < np.array(lengths)[:, None],
        "labels": jnp.asarray(labels),
        "label_mask": np.arange(2)[None] < np.array([len(a) for a in answers])[:, None],
    }
    loss, (metrics, _) = jax.jit(lambda x, b: ctc(forward_of(x), b, None, blank=blank))(logits, batch)
    expected = []
    for scores, length, answer in zip(logits, lengths, answers, strict=True):
        probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        paths = itertools.product(range(LABELS), repeat=length)
        likely = sum(
            np.prod([probabilities[t, label] for t, label in enumerate(path)])
            for path in paths
            if collapse(path, blank) == answer
        )
        expected.append(-np.log(likely))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-6)
    assert metrics["loss"] == loss
    assert loss.dtype == jnp.float64
    masked, _ = jax.jit(lambda x, b: ctc(forward_of(x), b, None, blank=blank))(
        logits, batch | {"example_mask": np.array([1.0, 0.0, 1.0])}
    )
    np.testing.assert_allclose(masked, np.mean(expected[::2]), rtol=1e-6)


def test_it_learns_labels_without_their_places():
    """Each label is a bump of its own channel; where it is and how long, nobody says."""
    rng = np.random.default_rng(0)
    steps, examples = 16, 16
    inputs, labels = np.zeros((examples, steps, 4), np.float32), np.zeros((examples, 3), np.int32)
    for row, label in zip(inputs, labels, strict=True):
        label[:] = rng.integers(1, 4, 3)
        for i, start in enumerate(np.array([0, 5, 10]) + rng.integers(0, 3, 3)):
            row[start : start + rng.integers(1, 3), label[i]] = 1
    model = CTCNetwork(hidden_size=12, num_classes=4)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    optimizer = optax.adam(3e-2)
    batch = {"inputs": inputs, "labels": labels}

    @jax.jit
    def steps_of(variables, opt_state):
        def step(carry, _):
            variables, opt_state = carry
            loss_fn = lambda v: ctc(lambda x, key: (model.apply(v, x), {}), batch, None)[0]  # noqa: E731
            loss, grads = jax.value_and_grad(loss_fn)(variables)
            with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
                updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(variables, updates), opt_state), loss

        (variables, _), losses = jax.lax.scan(step, (variables, opt_state), None, length=150)
        logits = model.apply(variables, inputs)
        return losses, ctc_greedy(logits), ctc_prefix_beam(logits, beam_size=4)

    losses, (greedy, greedy_lengths), (beam, beam_lengths, log_probs) = steps_of(variables, optimizer.init(variables))
    assert losses[-1] < 0.1
    np.testing.assert_array_equal(greedy_lengths, 3)
    np.testing.assert_array_equal(greedy[:, :3], labels)
    np.testing.assert_array_equal(beam_lengths[:, 0], 3)
    np.testing.assert_array_equal(beam[:, 0, :3], labels)
    assert (log_probs[:, 0] > -0.5).all()


def test_bad_batches_are_named():
    batch = {"inputs": jnp.zeros((2, TIME, 1)), "labels": jnp.zeros((2, 2), jnp.int32)}
    forward = forward_of(jnp.zeros((2, TIME, LABELS)))
    with pytest.raises(ConfigError, match="blank: expected one of the 3 labels, got 5"):
        ctc(forward, batch, None, blank=5)
    with pytest.raises(ShapeError, match=r"labels: expected integers of shape \(2, L\), got float32"):
        ctc(forward, batch | {"labels": jnp.zeros((2, 2))}, None)
    with pytest.raises(ShapeError, match=r"label_mask: expected bools of shape \(2, 2\)"):
        ctc(forward, batch | {"label_mask": jnp.ones((2, 3), bool)}, None)
