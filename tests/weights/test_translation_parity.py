"""pix2pix and CycleGAN against builds of the authors' networks: the same layers and names, nested as theirs are."""

import generative
import jax
import numpy as np
import oracles
import pytest
from comparison import enliven
from text_comparison import assert_close, check_gradients

from deepmodels.models.translation import CycleGAN, Pix2Pix
from deepmodels.weights import translation
from deepmodels.weights.convert import from_ours, to_ours

pytestmark = pytest.mark.parity


def converted(model, networks, rules, images):
    networks = oracles.randomise(enliven(networks))
    state = oracles.state_dict(networks)
    variables = to_ours(state, rules, jax.eval_shape(model.init, jax.random.key(0), images))
    written = from_ours({k: v for k, v in variables.items() if k != "pool"}, rules)
    assert written.keys() == {name for name in state if "num_batches" not in name}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])
    return networks, variables


def tensor(x):
    return oracles.import_torch().from_numpy(np.moveaxis(x, -1, 1).copy())


def numpy(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def test_pix2pix_is_the_authors():
    torch = oracles.import_torch()
    images, target = np.random.default_rng(0).uniform(-1, 1, (2, 1, 256, 256, 3)).astype(np.float32)
    model = Pix2Pix(channels=2, critic_channels=3)
    networks, variables = converted(model, generative.pix2pix(2, 3), translation.PIX2PIX, images)
    ours = jax.jit(model.apply)(variables, images, target)
    fake = networks["G"](tensor(images))
    assert_close("fake", ours["fake"], numpy(fake))
    for name, seen in {"real_logits": tensor(target), "fake_logits": fake}.items():
        assert_close(name, ours[name], numpy(networks["D"](torch.cat([tensor(images), seen], 1)))[..., 0])
    doubles = images.astype(np.float64)
    check_gradients(
        lambda v: model.apply(v, doubles)["fake_logits"],
        variables,
        networks,
        lambda n: n["D"](torch.cat([tensor(doubles), n["G"](tensor(doubles))], 1))[:, 0],
        translation.PIX2PIX,
    )


def test_cyclegan_is_the_authors():
    torch = oracles.import_torch()
    images, other = np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)
    model = CycleGAN(channels=3, critic_channels=4, pool_size=0)
    networks, variables = converted(model, generative.cyclegan(3, 4), translation.CYCLEGAN, images)
    ours = jax.jit(model.apply)(variables, images, other)
    with torch.no_grad():
        fake, other_fake = networks["G_A"](tensor(images)), networks["G_B"](tensor(other))
        assert_close("fake", ours["fake"], numpy(fake))
        assert_close("other_fake", ours["other_fake"], numpy(other_fake))
        assert_close("cycled", ours["cycled"], numpy(networks["G_B"](fake)))
        assert_close("other_same", ours["other_same"], numpy(networks["G_B"](tensor(images))))
        assert_close("fake_logits", ours["fake_logits"], numpy(networks["D_A"](fake))[..., 0])
        assert_close("other_real_logits", ours["other_real_logits"], numpy(networks["D_B"](tensor(images)))[..., 0])
    doubles = images.astype(np.float64)
    check_gradients(
        lambda v: model.apply(v, doubles)["fake_logits"],
        variables,
        networks,
        lambda n: n["D_A"](n["G_A"](tensor(doubles)))[:, 0],
        translation.CYCLEGAN,
    )
