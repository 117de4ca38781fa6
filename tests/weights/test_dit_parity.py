import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients, converted

from deepmodels.models.dit import DiT, MMDiT
from deepmodels.weights import dit
from deepmodels.weights.convert import from_ours

pytestmark = pytest.mark.parity

SIZES = dict(num_layers=3, hidden_size=16, num_heads=2, image_size=8, in_channels=4, out_channels=6)


def noisy(height=8, width=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, height, width, 4)).astype(np.float32), np.array(
        [3, 90], np.int32
    )  # of later ones float32's angles differ in more digits


def torch_of(*arrays):
    return [
        oracles.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim == 4 else array)
        for array in arrays
    ]


@pytest.mark.parametrize("grid", [(8, 8), (12, 12)])
def test_dit(grid):
    import torch

    model = DiT(**SIZES, num_classes=10, frequency_shift=1)
    theirs = oracles.diffusion_transformer(model)
    images, timesteps = noisy(*grid)
    label = np.array([4, -1], np.int32)
    variables = converted(model, oracles.state_dict(theirs), dit.DIT, images, timesteps, label)
    with torch.no_grad():
        given = torch_of(images, timesteps, np.where(label < 0, 10, label))
        expected = theirs(*given).sample.permute(0, 2, 3, 1).numpy()
    assert_close("output", jax.jit(model.apply)(variables, images, timesteps, label), expected)
    written, state = from_ours(variables, dit.DIT), oracles.state_dict(theirs)
    assert {name for name in state if "norm1.emb" not in name or ".0." in name} == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])


def inputs_of_a_text():
    rng = np.random.default_rng(1)
    return rng.normal(size=(2, 5, 12)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)


def mmdit():
    model = MMDiT(**SIZES, context_size=12, vector_size=6, largest_grid=6)
    return oracles.diffusion_transformer(model), model


@pytest.mark.parametrize("grid", [(8, 8), (12, 6)])
def test_mmdit(grid):
    import torch

    theirs, model = mmdit()
    images, timesteps = noisy(*grid)
    context, vector = inputs_of_a_text()
    state, rules = oracles.state_dict(theirs), dit.mmdit(3)
    variables = converted(model, state, rules, images, timesteps, context, vector)
    with torch.no_grad():
        noise, *others = torch_of(images, context, vector, timesteps)
        expected = theirs(noise, *others).sample.permute(0, 2, 3, 1).numpy()
    assert_close("output", jax.jit(model.apply)(variables, images, timesteps, context, vector), expected)
    written = from_ours(variables, rules)
    assert state.keys() - written.keys() == {"pos_embed.pos_embed"}
    theirs.load_state_dict(torch_state(written), strict=False)
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])


def torch_state(arrays):
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def test_gradients_of_all_parameters():
    theirs, model = mmdit()
    images, timesteps = noisy()[0], np.array([0, 1], np.int32)
    context, vector = inputs_of_a_text()
    rules = dit.mmdit(3)
    variables = converted(model, oracles.state_dict(theirs), rules, images, timesteps, context, vector)
    images, context, vector = (x.astype(np.float64) for x in (images, context, vector))
    given = torch_of(images, context, vector, timesteps)
    check_gradients(
        lambda v: model.apply(v, images, timesteps, context, vector),
        variables,
        theirs,
        lambda module: module(*given).sample.permute(0, 2, 3, 1),
        rules,
        tolerance=1e-6,  # diffusers has its angles and positions in float32
    )
