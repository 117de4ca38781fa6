import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import check_floats, drawn, overfits, shapes, words

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.clip import CLIP, VARIANTS, CLIPText

TINY, RESNET, TEXT = (VARIANTS[name].arguments for name in ("clip_tiny", "clip_rn_tiny", "clip_text_tiny"))


def pixels(batch, side=8):
    return np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)


def texts():
    tokens = words(14, 2, 8)
    tokens[:, 5] = 15
    return tokens


class Matching(CLIP):
    """The logits of which text belongs to a picture, as one array."""

    def __call__(self, images, tokens, train=False):
        outputs = super().__call__(images, tokens, train)
        return outputs["scale"] * outputs["image_embedding"] @ outputs["text_embedding"].T


def test_learns_which_caption_is_whose():
    assert overfits(Matching(**TINY), [pixels(8), words(15, 8, 8)], jnp.arange(8))


@pytest.mark.parametrize("name", ["clip_tiny", "clip_text_tiny"])
def test_computes_in_the_float_that_comes_in(name, float64):
    inputs = [texts()] if name == "clip_text_tiny" else [pixels(2), texts()]
    check_floats(VARIANTS[name].cls(**VARIANTS[name].arguments), inputs, floats=[0] if len(inputs) > 1 else [])


def test_what_follows_the_end_changes_neither_embedding_nor_what_was_before():
    model, one = CLIPText(**TEXT), texts()
    other = one.copy()
    other[:, 6:] = 0
    variables = drawn(model, one)
    ours, theirs = (jax.jit(model.apply)(variables, tokens) for tokens in (one, other))
    np.testing.assert_allclose(ours["embedding"], theirs["embedding"], rtol=1e-6)
    np.testing.assert_allclose(ours["hidden"][:, :6], theirs["hidden"][:, :6], rtol=1e-6)
    assert not np.allclose(ours["hidden"][:, 6:], theirs["hidden"][:, 6:])
    same = jax.jit(CLIPText(**TEXT, end_id=15).apply)(variables, one)
    np.testing.assert_array_equal(same["embedding"], ours["embedding"])


def test_penultimate_is_what_one_layer_less_gives():
    """Stable Diffusion 2's 23 layers are the 24 without the last, but for the normalisation."""
    model, shorter, tokens = CLIPText(**TEXT), CLIPText(**TEXT | dict(num_layers=1)), texts()
    params = drawn(model, tokens)["params"]
    fewer = params | {"layers": jax.tree.map(lambda x: x[:1], params["layers"])}
    before = model.apply({"params": params}, tokens)["penultimate"]
    hidden = shorter.apply({"params": fewer}, tokens)["hidden"]
    centred = before - before.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    expected = scaled * params["norm"]["scale"][None, None] + params["norm"]["bias"][None, None]
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-6)


def test_scale_has_a_limit_from_which_it_comes_down_again():
    model, inputs = CLIP(**TINY), (pixels(2), texts())
    params = drawn(model, *inputs)["params"]

    def scale(value):
        return model.apply({"params": params | {"logit_scale": value}}, *inputs)["scale"]

    assert float(scale(jnp.asarray(2.0))) == pytest.approx(np.exp(2))
    value, slope = jax.value_and_grad(scale)(jnp.asarray(5.0))
    assert (float(value), float(slope)) == (pytest.approx(100, rel=1e-5), pytest.approx(100, rel=1e-5))


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="vision_layers: expected a number of layers with a patch_size"):
        shapes(CLIP(**RESNET | dict(patch_size=4)), pixels(1), texts())
    with pytest.raises(ConfigError, match="unknown activation 'gleu': did you mean 'gelu'"):
        shapes(CLIP(**TINY, activation="gleu"), pixels(1), texts())
    with pytest.raises(ShapeError, match="multiples of the patch, 4, got"):
        shapes(CLIP(**TINY), pixels(1, 9), texts())
    with pytest.raises(ShapeError, match=r"images: expected shape \(batch, 16, 16, channels\)"):
        shapes(CLIP(**RESNET), pixels(1), texts())
    with pytest.raises(ShapeError, match="tokens: expected at most 8 positions, got 9"):
        shapes(CLIPText(**TEXT), words(15, 1, 9))
