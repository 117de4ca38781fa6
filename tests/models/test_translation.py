"""Networks that make one picture of another: pix2pix, CycleGAN, SRResNet and SRGAN, and their objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import data, objectives
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.super_resolution import PReLU, pixel_shuffle
from deepmodels.models.translation import instance_norm, query_pool
from deepmodels.objectives.translation import gray, hole, shrink

RNG = np.random.default_rng(0)


def test_pixels_are_shuffled_channel_by_channel():
    x = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
    out = pixel_shuffle(x, 2)
    for channel, i, j in [(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 1)]:
        np.testing.assert_array_equal(out[:, i::2, j::2, channel], x[..., channel * 4 + i * 2 + j])


def test_instance_norm_is_of_each_channel_of_each_image():
    x = RNG.normal(3, 2, size=(2, 8, 8, 3)).astype(np.float32)
    out = np.asarray(instance_norm(x))
    np.testing.assert_allclose(out.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((1, 2)), 1, atol=1e-4)


def test_the_slope_of_prelu_is_one_number():
    layer, x = PReLU(), jnp.array([[[[-2.0, 3.0]]]])
    params = layer.init(jax.random.key(0), x)["params"]
    assert params["slope"].shape == (1,)
    np.testing.assert_allclose(layer.apply({"params": params}, x)[0, 0, 0], [-0.5, 3.0])


def test_the_pool_shows_what_it_holds_and_takes_what_it_shows():
    pictures = jnp.arange(1.0, 401.0).reshape(400, 1, 1, 1)
    given, pool = jax.jit(query_pool)(jnp.zeros((5, 1, 1, 1)), jnp.int32(0), pictures, jax.random.key(0))
    given, pool = np.asarray(given).reshape(-1), np.asarray(pool).reshape(-1)
    np.testing.assert_array_equal(given[:5], np.arange(1, 6))  # while there is room, themselves
    own = given[5:] == np.arange(6, 401)
    assert 0.4 < own.mean() < 0.6
    assert (given[5:][~own] < np.arange(6, 401)[~own]).all()
    shown = given[5:][~own]
    assert len(set(shown)) == len(shown)  # what is shown has left the pool
    assert not set(pool) & set(shown)
    assert pool.min() > 0


def bound(model, variables, mutable=()):
    def forward(images, key=None, **named):
        if not mutable:
            return model.apply(variables, images, **named), {}
        return model.apply(variables, images, train=True, mutable=list(mutable), **named)

    return forward


def test_pix2pix_is_asked_for_the_true_picture():
    model, images = create("translation_tiny"), RNG.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    target = -images

    @jax.jit
    def losses(batch):
        forward = bound(model, variables)
        players = ("discriminator", "generator", None)
        return [objectives.paired_translation(forward, batch, None, player=player) for player in players]

    (d, (seen_d, _)), (g, (seen_g, _)), (both, (metrics, _)) = losses({"image": images, "target": target})
    np.testing.assert_allclose(d + g, both, rtol=1e-5)
    outputs = jax.jit(model.apply)(variables, images, target)
    off = np.abs(outputs["fake"] - target).mean()
    softplus = lambda x: np.logaddexp(0, np.float64(x)).mean()  # noqa: E731
    np.testing.assert_allclose(g, softplus(-outputs["fake_logits"]) + 100 * off, rtol=1e-5)
    np.testing.assert_allclose(
        d, 0.5 * (softplus(-outputs["real_logits"]) + softplus(outputs["fake_logits"])), rtol=1e-5
    )
    assert seen_d.keys() == {"discriminator_loss"}
    assert seen_g.keys() == {"generator_loss", "distance"}
    assert metrics.keys() == {"loss", "discriminator_loss", "generator_loss", "distance"}
    outputs = jax.jit(model.apply)(variables, np.asarray(gray(images)), images)
    off = np.abs(outputs["fake"] - images).mean()
    np.testing.assert_allclose(losses({"image": images})[1][1][0]["distance"], off, rtol=1e-5)
    np.testing.assert_allclose(gray(jnp.ones((1, 1, 1, 3))), 1.0, rtol=1e-6)


def test_cyclegan_goes_there_and_back():
    model = create("cyclegan_tiny")
    images, other = RNG.uniform(-1, 1, (2, 2, 32, 32, 3)).astype(np.float32)
    assert "pool" not in jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.jit(model.init)(jax.random.key(0), images, other, jax.random.key(0))
    rest = ("pool",)
    key = jax.random.key(3)

    @jax.jit
    def run(variables):
        batch = {"image": images, "other": other}
        players = ("discriminator", "generator", None)
        results = [
            objectives.cycle_consistency(bound(model, variables, rest), batch, key, player=player) for player in players
        ]
        return results, model.apply(variables, images, other)

    ((d, (_, after)), (g, (_, kept)), (both, (every, _))), outputs = run(variables)
    outputs = {name: np.float64(value) for name, value in outputs.items()}
    real, fake = "real_logits", "fake_logits"
    wanted = sum(
        0.5 * ((outputs[f"{side}{real}"] - 1) ** 2).mean() + 0.5 * (outputs[f"{side}{fake}"] ** 2).mean()
        for side in ("", "other_")
    )
    np.testing.assert_allclose(d, wanted, rtol=1e-5)
    fooled = sum(((outputs[f"{side}{fake}"] - 1) ** 2).mean() for side in ("", "other_"))
    back = np.abs(outputs["cycled"] - images).mean() + np.abs(outputs["other_cycled"] - other).mean()
    same = np.abs(outputs["same"] - other).mean() + np.abs(outputs["other_same"] - images).mean()
    np.testing.assert_allclose(g, fooled + 10 * back + 5 * same, rtol=1e-5)
    np.testing.assert_allclose(both, d + g, rtol=1e-5)
    assert every.keys() == {"loss", "discriminator_loss", "generator_loss", "cycle", "identity"}
    # the discriminator's move filled two of three places, the generator's none
    assert int(after["pool"]["count"]) == 2
    np.testing.assert_allclose(after["pool"]["fake"][:2], outputs["fake"], rtol=1e-5, atol=1e-6)
    assert int(kept["pool"]["count"]) == 0
    with pytest.raises(ConfigError, match="say data.unpaired"):
        objectives.cycle_consistency(None, {"image": images}, None)


def test_super_resolution_is_measured_beside_bicubic_interpolation():
    model, images = create("super_resolution_tiny"), RNG.random((2, 32, 32, 3)).astype(np.float32)
    low = np.asarray(shrink(images, 4))
    assert low.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(low.mean(), images.mean(), atol=5e-3)
    variables = jax.jit(model.init)(jax.random.key(0), low)
    loss, (metrics, _) = jax.jit(
        lambda v: objectives.super_resolution(bound(model, v), {"image": images}, None)
    )(variables)  # fmt: skip
    made = np.float64(jax.jit(model.apply)(variables, low)["reconstruction"])
    np.testing.assert_allclose(loss, np.square(made - images).mean(), rtol=1e-5)
    errors = np.square(made.clip(0, 1) - images).mean((1, 2, 3))
    np.testing.assert_allclose(metrics["psnr"], (-10 * np.log10(errors)).mean(), rtol=1e-5)
    bicubic = np.float64(jax.image.resize(low, images.shape, "cubic")).clip(0, 1)
    errors = np.square(bicubic - images).mean((1, 2, 3))
    np.testing.assert_allclose(metrics["bicubic_psnr"], (-10 * np.log10(errors)).mean(), rtol=1e-5)
    with pytest.raises(ConfigError, match="factor: 5 doesn't divide pictures of 32x32"):
        objectives.super_resolution(None, {"image": images}, None, factor=5)
    with pytest.raises(ShapeError, match="2 times smaller"):
        objectives.super_resolution(bound(model, variables), {"image": images}, None, factor=2)


def test_srgan_plays_with_the_true_picture():
    model, images = create("srgan_tiny"), RNG.random((2, 32, 32, 3)).astype(np.float32)
    low = shrink(images, 4)
    variables = jax.jit(model.init)(jax.random.key(0), low)

    @jax.jit
    def losses(variables):
        forward, batch = bound(model, variables), {"image": images}
        players = ("discriminator", "generator", None)
        return [objectives.adversarial_super_resolution(forward, batch, None, player=p)[0] for p in players]

    d, g, both = losses(variables)
    outputs = jax.jit(model.apply)(variables, low, images)
    softplus = lambda x: np.logaddexp(0, np.float64(x)).mean()  # noqa: E731
    np.testing.assert_allclose(d, softplus(-outputs["real_logits"]) + softplus(outputs["fake_logits"]), rtol=1e-5)
    content = np.square(np.float64(outputs["reconstruction"]) - images).mean()
    np.testing.assert_allclose(g, content + 1e-3 * softplus(-outputs["fake_logits"]), rtol=1e-5)
    np.testing.assert_allclose(both, d + g, rtol=1e-5)


def test_what_does_not_fit_is_named():
    def init(model, *shapes):
        return jax.eval_shape(model.init, jax.random.key(0), *map(jnp.zeros, shapes))

    for name, side in (("translation_tiny", 32), ("cyclegan_tiny", 4)):
        with pytest.raises(ShapeError, match=f"height and width divisible by {side}"):
            init(create(name), (1, side + 2, side, 3))
    with pytest.raises(ShapeError, match="32 x 32 pixels, as the pool has"):
        init(create("cyclegan_tiny"), (1, 16, 16, 3))
    with pytest.raises(ConfigError, match="num_downs: expected 2 or more, got 1"):
        init(create("translation_tiny", num_downs=1), (1, 32, 32, 3))
    with pytest.raises(ShapeError, match="target: expected the shape of the images"):
        init(create("translation_tiny"), (1, 32, 32, 3), (1, 64, 64, 3))
    with pytest.raises(ShapeError, match="other: expected the shape of the images"):
        init(create("cyclegan_tiny"), (1, 32, 32, 3), (2, 32, 32, 3))
    with pytest.raises(ShapeError, match=r"images: expected shape \(batch, 8, 8, 3\)"):
        init(create("srgan_tiny"), (1, 9, 8, 3))


def test_pictures_of_two_classes_meet():
    label = np.array([3, 1, 3, 0, 1, 3], np.int32)
    source = data.ArraySource({"image": np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), "label": label})
    pair = lambda pairs, i: (int(pairs[i]["image"].item()), int(pairs[i]["other"].item()))  # noqa: E731
    every, one = (data.UnpairedSource(source, (3, 1), every) for every in (True, False))
    assert sorted(pair(every, i) for i in range(len(every))) == [(a, b) for a in (0, 2, 5) for b in (1, 4)]
    assert [pair(one, i) for i in range(len(one))] == [(0, 1), (2, 4), (5, 1)]
    with pytest.raises(ConfigError, match="unpaired: expected two labels"):
        data.UnpairedSource(source, (3,), True)
    with pytest.raises(ConfigError, match="unpaired: no record has the label 2"):
        data.UnpairedSource(source, (3, 2), True)
    with pytest.raises(ConfigError, match="unpaired: the records of this data set have no label"):
        data.UnpairedSource(data.ArraySource({"image": np.zeros((2, 1, 1, 1))}), (0, 1), True)


def test_what_is_made_of_true_pictures():
    images = jnp.ones((1, 8, 8, 3))
    np.testing.assert_array_equal(hole(images)[0, :, :, 0], np.pad(np.zeros((4, 4)), 2, constant_values=1))
    with pytest.raises(ConfigError, match="unknown source 'grey': did you mean 'gray'"):
        objectives.paired_translation(None, {"image": images}, None, source="grey")
