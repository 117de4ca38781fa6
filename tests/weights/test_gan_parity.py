"""DCGAN against PyTorch's example, built in parity/generative.py: the same layers, names and sizes."""

import generative
import jax
import numpy as np
import oracles
import pytest
from comparison import enliven
from text_comparison import assert_close, check_gradients

from deepmodels.models.gan import DCGAN
from deepmodels.weights import gan
from deepmodels.weights.convert import from_ours, to_ours

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("train", [False, True])
def test_generates_and_tells_as_the_example(train):
    torch = oracles.import_torch()
    both = oracles.randomise(enliven(generative.dcgan(7, 6, 5)))
    model = DCGAN(latent_size=7, channels=6, critic_channels=5)
    images = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
    latent = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    state = oracles.state_dict(both)
    variables = to_ours(state, gan.DCGAN, abstract)
    written = from_ours(variables, gan.DCGAN)
    assert written.keys() == {name for name in state if "num_batches" not in name}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])

    def ours_of(variables, latent=latent, images=images):
        mutable = dict(mutable=["batch_stats"]) if train else {}
        made = model.apply(variables, latent, method="generate", train=train, **mutable)
        told = model.apply(variables, images, method="discriminate", train=train, **mutable)
        made, told = (x[0] if train else x for x in (made, told))
        return jax.numpy.concatenate([made.reshape(-1), told])

    def theirs_of(both, latent=latent, images=images):
        both.train(train)
        made = both["generator"].main(torch.from_numpy(latent)[:, :, None, None])
        told = both["discriminator"].main(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
        return torch.cat([made.permute(0, 2, 3, 1).reshape(-1), told.reshape(-1)])

    if not train:
        with torch.no_grad():
            assert_close("outputs", jax.jit(ours_of)(variables), theirs_of(both).numpy())
    doubles = dict(latent=latent.astype(np.float64), images=images.astype(np.float64))
    check_gradients(lambda v: ours_of(v, **doubles), variables, both, lambda m: theirs_of(m, **doubles), gan.DCGAN)
