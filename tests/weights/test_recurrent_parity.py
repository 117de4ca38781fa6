"""The recurrent networks beside torch's, padded and packed too, with the same weights."""

import os
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest

from deepmodels import trees
from deepmodels.models.recurrent import RecurrentNetwork
from deepmodels.weights import files
from deepmodels.weights.convert import Rule, dense, from_ours, to_ours
from deepmodels.weights.recurrent import recurrent

pytestmark = pytest.mark.parity

BATCH, TIME, CHANNELS, HIDDEN, LAYERS = 4, 7, 5, 6, 2
LENGTHS = [7, 2, 5, 1]
MASK = np.arange(TIME)[None] < np.array(LENGTHS)[:, None]
RULES = recurrent("", "stack")
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
KINDS = {
    "elman_tanh": ("RNN", {}),
    "elman_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm_2000": ("LSTM", {}),
    "gru_reset_after": ("GRU", {}),
}


def both(cell, bidirectional, dtype):
    """Torch's module with weights that keep every gate busy, our model, and its variables with those weights."""
    torch = oracles.import_torch()
    kind, arguments = KINDS[cell]
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(
        CHANNELS, HIDDEN, LAYERS, batch_first=True, bidirectional=bidirectional, **arguments
    ).to(getattr(torch, dtype))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    model = RecurrentNetwork(cell, HIDDEN, num_layers=LAYERS, bidirectional=bidirectional, recurrent_bias=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, TIME, CHANNELS), np.float32))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
    return module, model, to_ours(oracles.state_dict(module), RULES, shapes)


def arrays(bidirectional, dtype, arrays=1):
    """Inputs, and a first state in torch's order of axes."""
    rng = np.random.default_rng(0)
    shape = (LAYERS * (1 + bidirectional), BATCH, HIDDEN)
    inputs = rng.normal(size=(BATCH, TIME, CHANNELS)).astype(dtype)
    return inputs, tuple(rng.normal(size=shape).astype(dtype) for _ in range(arrays))


def run_torch(module, inputs, state, packed):
    torch = oracles.import_torch()
    x = torch.from_numpy(inputs).requires_grad_()
    first = tuple(torch.from_numpy(array).requires_grad_() for array in state)
    given = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, True, enforce_sorted=False) if packed else x
    outputs, last = module(given, first if len(first) > 1 else first[0])
    if packed:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, True, total_length=TIME)
    return x, first, outputs, last if isinstance(last, tuple) else (last,)


def assert_close(name, ours, theirs):
    assert ours.dtype == theirs.dtype
    scale = np.abs(theirs).max()
    assert scale > 1e-2, f"{name}: nothing to compare"
    tolerance = TOLERANCE[theirs.dtype.name] * max(1, scale)  # rectified states grow
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)


def batch_first(state):
    return tuple(array.swapaxes(0, 1) for array in state)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_outputs_and_states_are_torchs(cell, bidirectional, packed):
    module, model, variables = both(cell, bidirectional, "float32")
    inputs, state = arrays(bidirectional, np.float32, 2 if cell == "lstm_2000" else 1)
    _, _, outputs, last = run_torch(module, inputs, state, packed)
    run = jax.jit(lambda v, x, s: model.apply(v, x, s, MASK if packed else None, method="advance"))
    ours, end = run(variables, inputs, batch_first(state))
    assert_close("outputs", ours, outputs.detach().numpy())
    for name, our, their in zip("hc", end, last, strict=False):
        assert_close(name, our, their.detach().numpy().swapaxes(0, 1))


@pytest.mark.parametrize("cell", KINDS)
def test_gradients_are_torchs(cell, float64):
    torch = oracles.import_torch()
    module, model, variables = both(cell, True, "float64")
    inputs, state = arrays(True, np.float64, 2 if cell == "lstm_2000" else 1)
    x, first, outputs, last = run_torch(module, inputs, state, packed=True)
    rng = np.random.default_rng(1)
    of_outputs = rng.normal(size=outputs.shape)
    of_last = tuple(rng.normal(size=array.shape) for array in last)
    total = sum((a * torch.from_numpy(c)).sum() for a, c in zip((outputs, *last), (of_outputs, *of_last), strict=True))
    total.backward()

    @jax.jit
    def gradients(variables, inputs, state):
        run = lambda v, x, s: model.apply(v, x, s, MASK, method="advance")  # noqa: E731
        return jax.vjp(run, variables, inputs, state)[1]((of_outputs, batch_first(of_last)))

    d_variables, d_inputs, d_state = gradients(variables, inputs, batch_first(state))
    assert_close("inputs", d_inputs, x.grad.numpy())
    for our, their in zip(d_state, first, strict=True):
        assert_close("state", our, their.grad.numpy().swapaxes(0, 1))
    written = from_ours(d_variables, RULES)
    parameters = dict(module.named_parameters())
    assert written.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert_close(name, written[name], parameter.grad.numpy())


@pytest.mark.parametrize("cell", KINDS)
def test_what_is_written_is_what_was_read(cell):
    torch = oracles.import_torch()
    module, _, variables = both(cell, True, "float32")
    written = from_ours(variables, RULES)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(written[name], tensor.numpy())
    module.load_state_dict({name: torch.from_numpy(array) for name, array in written.items()}, strict=True)
    assert trees.count(variables) == sum(p.numel() for p in module.parameters())


def test_a_real_speaker_encoder_gives_the_golden_embedding():
    """Resemblyzer's, Wan et al. (2017), arXiv:1710.10467: the last state, projected, rectified and normalised."""
    folder = os.environ.get("DEEPMODELS_TEST_DATA")
    path = next(Path(folder).rglob("resemblyzer/pretrained.pt"), None) if folder else None
    if path is None:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder with resemblyzer/pretrained.pt in it")
    rules = (*recurrent("lstm.", "stack"), *dense("linear", "head"), Rule("similarity_{*}", None))
    model = RecurrentNetwork("lstm_2000", 256, num_layers=3, recurrent_bias=True, num_classes=256)
    frames = np.sin(0.01 * np.arange(160 * 40)).reshape(1, 160, 40).astype(np.float32)
    variables = to_ours(files.read(path), rules, jax.eval_shape(model.init, jax.random.key(0), frames))
    assert trees.count(variables) == 1_423_616
    embedding = np.maximum(jax.jit(model.apply)(variables, frames)[0], 0)
    golden = np.load(Path(__file__).parent.parent / "golden" / "resemblyzer.npz")["embed"]
    np.testing.assert_allclose(embedding / np.linalg.norm(embedding), golden, rtol=0, atol=1e-5)
