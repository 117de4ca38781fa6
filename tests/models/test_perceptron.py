import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.perceptron import Perceptron, fit, fit_multiclass

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)


def separable(seed, margin=0.05):
    """Points with a gap of twice the margin along a random direction of length 1, bias included."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=4) * [1, 1, 1, 0.2]
    truth /= np.linalg.norm(truth)
    points = rng.uniform(-1, 1, (80, 3))
    scores = points @ truth[:3] + truth[3]
    keep = np.abs(scores) > margin
    return points[keep].astype(np.float32), np.sign(scores[keep]).astype(np.int32), np.abs(scores[keep]).min()


def answers(points, weights, bias):
    return np.sign(points @ np.asarray(weights) + np.asarray(bias))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["plain", "pocket"])
def test_separable_points_are_separated_within_novikoffs_bound(seed, rule):
    points, labels, margin = separable(seed)
    weights, bias, mistakes, converged = fit(points, labels, epochs=10_000, rule=rule)
    radius = np.sqrt((points**2).sum(1).max() + 1)
    assert 0 < int(mistakes) <= (radius / margin) ** 2
    assert converged
    np.testing.assert_array_equal(answers(points, weights, bias), labels)


def test_first_epoch_by_hand():
    # the first example is a mistake of the zero weights, the second then too, the third is right
    inputs = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    learned = fit(inputs, jnp.array([1, -1, -1]), epochs=1)
    np.testing.assert_array_equal(learned.weights, [1, -2])
    assert (learned.bias, learned.mistakes, learned.converged) == (0, 2, False)
    # after each visit the weights were (1, 0, 1), (1, -2, 0), (1, -2, 0)
    averaged = fit(inputs, jnp.array([1, -1, -1]), epochs=1, rule="averaged")
    np.testing.assert_allclose([*averaged.weights, averaged.bias], [1, -4 / 3, 1 / 3], rtol=1e-6)


def test_labels_may_be_zero_and_one():
    points, labels, _ = separable(0)
    np.testing.assert_array_equal(fit(points, labels, epochs=9).weights, fit(points, labels > 0, epochs=9).weights)


def test_xor_is_out_of_reach():
    learned = fit(XOR, jnp.array([-1, 1, 1, -1]), epochs=100)
    assert learned.mistakes >= 100
    assert not learned.converged


def test_an_outlier_disturbs_the_plain_rule_only():
    points, labels, _ = separable(1)
    # the last ones of each epoch lie in the middle of one class and have the label of the other
    outlier = points[labels > 0].mean(0, keepdims=True)
    points, labels = np.concatenate([points, *[outlier] * 5]), np.concatenate([labels, [-1] * 5])

    def errors(rule):
        learned = fit(points, labels, epochs=100, rule=rule)
        assert not learned.converged
        return (answers(points, learned.weights, learned.bias) != labels).sum()

    assert errors("plain") > 10
    assert errors("pocket") <= 7
    assert errors("averaged") <= 7


def test_multiclass_weights_are_parameters_of_the_model():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60, 4)).astype(np.float32)
    labels = (points @ rng.normal(size=(4, 3))).argmax(1).astype(np.int32)
    learned = fit_multiclass(points, labels, num_classes=3, epochs=2_000)
    assert learned.converged
    params = {"head": {"kernel": learned.weights, "bias": learned.bias}}
    scores = Perceptron(num_classes=3).apply({"params": params}, points)
    np.testing.assert_array_equal(scores.argmax(1), labels)


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="unknown rule 'pockets': did you mean 'pocket'"):
        fit(XOR, jnp.ones(4), epochs=1, rule="pockets")
    with pytest.raises(ShapeError, match=r"labels: expected shape \(4,\), got \(3,\)"):
        fit(XOR, jnp.ones(3), epochs=1)
    with pytest.raises(ShapeError, match="inputs: expected shape"):
        fit_multiclass(XOR[0], jnp.ones(2), num_classes=2, epochs=1)
