"""DALL-E's discrete VAE against the package of that name, or a build of its two halves where that isn't installed."""

import importlib.util

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
    """The two halves as appendix A.2 has them, with the names of the package."""
    torch = oracles.import_torch()
    nn = torch.nn

    class Conv(nn.Module):
        def __init__(self, fed, given, size):
            super().__init__()
            self.w = nn.Parameter(torch.empty(given, fed, size, size))
            self.b = nn.Parameter(torch.zeros(given))

        def forward(self, x):
            return nn.functional.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)

    class Block(nn.Module):
        def __init__(self, fed, given, sizes):
            super().__init__()
            between = given // 4
            self.id_path = Conv(fed, given, 1) if fed != given else nn.Identity()
            self.res_path = nn.Sequential()
            for i, (one, other) in enumerate(
                ((fed, between), (between, between), (between, between), (between, given))
            ):
                self.res_path.add_module(f"relu_{i + 1}", nn.ReLU())
                self.res_path.add_module(f"conv_{i + 1}", Conv(one, other, sizes[i]))

        def forward(self, x):
            return self.id_path(x) + self.res_path(x) / (4 * BLOCKS) ** 2

    def half(fed, given, first, widths, sizes, between, window):
        module, blocks = nn.Module(), nn.Sequential()
        blocks.add_module("input", Conv(fed, first, window))
        for number, width in enumerate(widths, start=1):
            group = nn.Sequential()
            for i in range(1, BLOCKS + 1):
                group.add_module(f"block_{i}", Block(first, width, sizes))
                first = width
            if number < 4:
                group.add_module("between", between())
            blocks.add_module(f"group_{number}", group)
        blocks.add_module("output", nn.Sequential())
        blocks.output.add_module("relu", nn.ReLU())
        blocks.output.add_module("conv", Conv(first, given, 1))
        module.blocks = blocks
        module.forward = blocks.forward
        return module

    widths = [HIDDEN * 2**i for i in range(4)]
    return (
        half(3, CODES, HIDDEN, widths, (3, 3, 3, 1), lambda: nn.MaxPool2d(2), 7),
        half(CODES, 6, FIRST, widths[::-1], (1, 3, 3, 3), lambda: nn.Upsample(scale_factor=2, mode="nearest"), 1),
    )


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
