"""Pictures and captions that learn to find each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import largest_difference, one_device, trained  # noqa: F401

from deepmodels import objectives
from deepmodels.errors import ConfigError
from deepmodels.training import experiment

MODEL = {"name": "clip_tiny", "image_size": 32, "patch_size": 16, "vocab_size": 32, "end_id": 2}
CONFIG = {
    "model": MODEL,
    "objective": {"name": "image_text_contrastive"},
    "data": {"name": "fashion_mnist_captions", "batch_size": 16},
}


def test_each_pair_is_told_from_those_of_all_devices(tiny_config, float64, one_device):  # noqa: F811
    config = tiny_config(**CONFIG, precision="float64")
    state, losses = one_device(config)
    other, other_losses = trained(config | {"mesh": {"data": 8}})
    assert losses.dtype == np.float64
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


def test_the_loss_is_that_of_the_paper_and_leaves_padding_out():
    rng = np.random.default_rng(0)
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)))
    texts[:3] = images[:3]

    def run(count, **more):
        batch = {"image": jnp.zeros((count, 1)), "tokens": jnp.zeros((count, 1), jnp.int32), **more}
        outputs = {"image_embedding": images[:count], "text_embedding": texts[:count], "scale": 7.0}
        outputs = jax.tree.map(jnp.float32, outputs)
        loss, (metrics, _) = objectives.create("image_text_contrastive")(lambda *_, key: (outputs, {}), batch, None)
        return float(loss), {name: float(value) for name, value in metrics.items()}

    loss, metrics = run(6)
    logits = 7 * images @ texts.T
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    assert loss == pytest.approx(-(np.diagonal(rows).mean() + np.diagonal(columns).mean()) / 2, rel=1e-5)
    hits = [(logits.argmax(axis) == np.arange(6)).mean() for axis in (0, 1)]
    assert metrics["accuracy"] == pytest.approx(np.mean(hits))
    masked = run(6, example_mask=jnp.array([1.0, 1, 1, 1, 0, 0]))
    for one, other in zip((masked[0], *masked[1].values()), (run(4)[0], *run(4)[1].values()), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_what_would_go_wrong_unseen_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="config.model.end_id=None, but the tokenizer .* ends a text by 2"):
        experiment.make(tiny_config(**CONFIG | {"model": MODEL | {"end_id": None}}))
    with pytest.raises(ConfigError, match="tells each pair from all others of the batch"):
        experiment.make(tiny_config(**CONFIG, accumulate=2))
