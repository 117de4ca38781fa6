"""DALL-E's discrete VAE against the package of that name, or a build of its two halves where that isn't installed."""

import importlib.util

import generative
import jax
import numpy as np
import oracles
import pytest
from comparison import enliven
from text_comparison import assert_close, check_gradients

from deepmodels.models.vae import DVAE, map_pixels
from deepmodels.weights import vae
from deepmodels.weights.convert import from_ours, to_ours

pytestmark = pytest.mark.parity
HIDDEN, FIRST, BLOCKS, CODES = 64, 8, 1, 512  # the smallest that the package takes


def package():
    if importlib.util.find_spec("dall_e") is None:
        pytest.skip("the package DALL-E isn't installed")
    from dall_e import Decoder, Encoder

    sizes = dict(n_hid=HIDDEN, n_blk_per_group=BLOCKS, vocab_size=CODES, requires_grad=True, use_mixed_precision=False)
    return Encoder(**sizes), Decoder(n_init=FIRST, **sizes)


def build():
    both = generative.dalle_dvae(HIDDEN, FIRST, BLOCKS, CODES)
    return both["encoder"], both["decoder"]


@pytest.mark.parametrize("make", [build, package])
def test_encodes_and_decodes_as_theirs(make):
    torch = oracles.import_torch()
    encoder, decoder = map(enliven, make())
    both = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    model = DVAE(HIDDEN, FIRST, BLOCKS, CODES)
    images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    state = {name: tensor.numpy() for name, tensor in both.state_dict().items()}
    variables = to_ours(state, vae.DALL_E, abstract)
    written = from_ours(variables, vae.DALL_E)
    assert written.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(written[name], state[name])

    given = torch.from_numpy(np.moveaxis(np.asarray(map_pixels(images)), -1, 1).copy())
    with torch.no_grad():
        logits = encoder(given)
        codes = torch.nn.functional.one_hot(logits.argmax(1), CODES).permute(0, 3, 1, 2).float()
        pixels = decoder(codes)
    ours = jax.jit(model.apply)(variables, images)
    assert_close("code_logits", ours["code_logits"], np.moveaxis(logits.numpy(), 1, -1))
    assert_close("pixels", ours["pixels"], np.moveaxis(pixels.numpy(), 1, -1))

    if make is build:  # the package computes in float32 only
        doubles = images.astype(np.float64)
        weights = codes.permute(0, 2, 3, 1).numpy().astype(np.float64)

        def ours_of(variables):
            logits = model.apply(variables, doubles, method="encode")
            pixels = model.apply(variables, weights, method=lambda m, x: m.decoder(x))
            return jax.numpy.concatenate([logits.reshape(-1), pixels.reshape(-1)])

        def theirs_of(both):
            logits = both["encoder"](torch.from_numpy(np.moveaxis(np.asarray(0.8 * doubles + 0.1), -1, 1).copy()))
            pixels = both["decoder"](codes.double())
            return torch.cat([x.permute(0, 2, 3, 1).reshape(-1) for x in (logits, pixels)])

        check_gradients(ours_of, variables, both, theirs_of, vae.DALL_E)
