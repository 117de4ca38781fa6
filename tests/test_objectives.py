"""Objectives against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError, ShapeError

LOGITS = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
LABELS = jnp.array([0, 1, 2], jnp.int32)


def forward(images, key=None):
    return images, {"seen": key}


def call(name, batch, **options):
    return objectives.create(name, **options)(forward, batch, None)


def test_cross_entropy_and_accuracy():
    loss, (metrics, variables) = call("classification", {"image": LOGITS, "label": LABELS})
    log_p = np.asarray(LOGITS) - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    expected = -log_p[np.arange(3), np.asarray(LABELS)]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], 1 / 3, rtol=1e-6)
    assert variables == {"seen": None}


@pytest.mark.parametrize("name", ["classification", "classification_with_auxiliary"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_may_be_distributions(name, smoothing):
    soft = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.75, 0.25], [0.2, 0.3, 0.5]])
    loss, (metrics, _) = call(name, {"image": LOGITS, "label": soft}, label_smoothing=smoothing)
    log_p = np.asarray(LOGITS) - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.asarray(soft) + smoothing / 3
    np.testing.assert_allclose(loss, -(targets * log_p).sum(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], 1 / 3, rtol=1e-6)
    sharp = call(name, {"image": LOGITS, "label": jnp.eye(3)}, label_smoothing=smoothing)
    whole = call(name, {"image": LOGITS, "label": LABELS}, label_smoothing=smoothing)
    np.testing.assert_allclose(sharp[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(sharp[1][0]["accuracy"], whole[1][0]["accuracy"])


@pytest.mark.parametrize("label", [jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros((3, 3), jnp.int32)])
def test_labels_of_another_form_are_refused(label):
    with pytest.raises(ShapeError, match=r"label: expected integers of shape \(3,\) or floats of shape \(3, 3\)"):
        call("classification", {"image": LOGITS, "label": label})


def test_label_smoothing():
    loss, _ = call("classification", {"image": LOGITS, "label": LABELS}, label_smoothing=0.3)
    log_p = np.asarray(LOGITS) - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    targets = 0.7 * np.eye(3) + 0.1
    np.testing.assert_allclose(loss, -(targets * log_p).sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["classification", "classification_with_auxiliary", "perceptron", "segmentation"])
def test_padding_counts_for_nothing(name):
    logits, labels = LOGITS, LABELS
    if name == "segmentation":  # images of one pixel
        logits, labels = LOGITS[:, None, None], LABELS[:, None, None]
    whole, (metrics, _) = call(name, {"image": logits[:2], "label": labels[:2]})
    mask = jnp.array([1.0, 1.0, 0.0])
    padded, (padded_metrics, _) = call(name, {"image": logits, "label": labels, "example_mask": mask})
    np.testing.assert_allclose(padded, whole, rtol=1e-6)
    for key in metrics:
        np.testing.assert_allclose(padded_metrics[key], metrics[key], rtol=1e-6)


def test_the_softmax_of_bfloat16_logits_is_float32():
    loss, _ = call("classification", {"image": LOGITS.astype(jnp.bfloat16), "label": LABELS})
    assert loss.dtype == jnp.float32


def test_perceptron_corrects_mistakes_only():
    """Its gradient raises the label's score and lowers the winner's, by one each, and is zero where all is right."""

    def loss(scores):
        return call("perceptron", {"image": scores, "label": LABELS})[0]

    gradient = 3 * jax.grad(loss)(LOGITS)
    np.testing.assert_allclose(gradient[0], [0, 0, 0])
    np.testing.assert_allclose(gradient[1], [0, -1, 1])
    assert gradient[2, 2] == -1, "a tie is a mistake"
    assert gradient[2].sum() == 0


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="did you mean 'perceptron'"):
        objectives.create("perceptrn")
    with pytest.raises(ConfigError, match="no argument 'forward'"):
        objectives.create("classification", forward=1)
