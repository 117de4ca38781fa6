"""Fast style transfer against PyTorch's example, built here: the same layers, names and sizes."""

import generative
import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients

from deepmodels import loading, weights
from deepmodels.models.style import FastStyle
from deepmodels.weights import style
from deepmodels.weights.convert import from_ours, to_ours

pytestmark = pytest.mark.parity


def test_draws_as_the_example():
    torch = oracles.import_torch()
    theirs = generative.fast_style(channels=6)
    model = FastStyle(channels=6)
    images = np.random.default_rng(0).normal(size=(2, 20, 12, 3)).astype(np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    state = oracles.state_dict(theirs)
    variables = to_ours(state | {"in1.running_mean": np.zeros(6)}, style.FAST_STYLE, abstract)
    written = from_ours(variables, style.FAST_STYLE)
    assert written.keys() == state.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])

    def ours_of(variables, images=images):
        return model.apply(variables, images)["stylised"]

    def theirs_of(theirs, images=images):
        return theirs(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).permute(0, 2, 3, 1)

    with torch.no_grad():
        assert_close("outputs", jax.jit(ours_of)(variables), theirs_of(theirs).numpy())
    doubles = images.astype(np.float64)
    check_gradients(lambda v: ours_of(v, doubles), variables, theirs, lambda m: theirs_of(m, doubles), style.FAST_STYLE)


def test_a_file_of_the_example_is_loaded(tmp_path):
    torch = oracles.import_torch()
    theirs = generative.fast_style()
    torch.save(theirs.state_dict(), tmp_path / "mosaic.pth")
    assert weights.detect(oracles.state_dict(theirs), "fast_style", "style") == "torch"
    _, variables = loading.load("fast_style", tmp_path / "mosaic.pth")
    kernel = theirs.state_dict()["res3.conv2.conv2d.weight"].numpy()
    np.testing.assert_array_equal(variables["params"]["block2_2"]["kernel"], kernel.transpose(2, 3, 1, 0))
