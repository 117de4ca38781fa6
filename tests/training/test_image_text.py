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


def test_codes_behind_a_text():
    """The loss of the paper, of what a frozen network makes of the pictures."""
    rng = np.random.default_rng(0)
    codes, tokens = rng.integers(0, 5, (3, 2, 2)), rng.integers(0, 7, (3, 4))
    mask = np.arange(4)[None] < np.array([[4], [2], [1]])
    text, image = rng.normal(size=(3, 3, 7)), rng.normal(size=(3, 4, 5))
    asked = []

    def forward(*inputs, network=None, key=None, mask=None):
        asked.append((network, mask))
        if network is not None:
            return {"code_logits": jax.nn.one_hot(codes, 5)}, {}
        np.testing.assert_array_equal(inputs[1], codes.reshape(3, 4))
        return {"text_logits": jnp.float32(text), "image_logits": jnp.float32(image)}, {}

    batch = {"image": jnp.zeros((3, 16, 16, 3)), "tokens": jnp.array(tokens), "mask": jnp.array(mask)}
    loss, (metrics, _) = objectives.create("text_to_image", network="dvae")(forward, batch, None)
    assert [name for name, _ in asked] == ["dvae", None]
    np.testing.assert_array_equal(asked[1][1], mask)

    def nats(logits, labels):
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.take_along_axis(logits, labels[..., None], -1)[..., 0]

    words = nats(text, tokens[:, 1:])
    expected = (words[0].mean() + words[1, 0] + 0) / 3  # of the second text one word is predicted, of the third none
    assert float(metrics["text_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["image_loss"]) == pytest.approx(nats(image, codes.reshape(3, 4)).mean(), rel=1e-5)
    assert float(loss) == pytest.approx(float(metrics["text_loss"]) / 8 + float(metrics["image_loss"]) * 7 / 8)


DALLE = {
    "model": {"name": "dalle_tiny", "text_length": 8, "grid": 4, "vocab_size": 32},
    "objective": {"name": "text_to_image", "network": "dvae"},
    "data": {"name": "fashion_mnist_captions", "batch_size": 8},
    "frozen": {"dvae": {"model": {"name": "dalle_dvae_tiny", "channels": 1}}},
}


def test_what_the_model_gets_is_its_own_call(tiny_config):
    x = experiment.make(tiny_config(**DALLE))
    found = [(spec.shape, spec.dtype.name) for spec in experiment.model_inputs(x)]
    assert found == [((1, 8), "int32"), ((1, 16), "int32")]
    assert {"text_loss", "image_loss"} <= set(experiment.metric_names(x))
    with pytest.raises(ConfigError, match="config.frozen.dvae: expected a network that makes codes"):
        experiment.make(tiny_config(**DALLE | {"frozen": {"dvae": {"model": {"name": "unet_tiny"}}}}))
    with pytest.raises(ConfigError, match="text_weight: expected a share, got 2"):
        experiment.make(tiny_config(**DALLE | {"objective": DALLE["objective"] | {"text_weight": 2}}))
