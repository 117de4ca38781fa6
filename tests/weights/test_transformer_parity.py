import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients, converted, padding, tensors, words

from deepmodels.models.transformer import Transformer, sinusoids
from deepmodels.weights.convert import from_ours
from deepmodels.weights.transformer import TORCH

pytestmark = pytest.mark.parity


def test_outputs_and_gradients_are_torchs():
    import torch

    theirs = oracles.torch_transformer(40, 16, 3, 2, 32, sinusoids(7, 16))
    model = Transformer(40, 16, 3, 2, 32, attention_bias=True, epsilon=1e-5)
    tokens, targets, mask = words(40), words(40, 5, seed=1), padding()
    variables = converted(model, oracles.state_dict(theirs), TORCH, tokens, targets)
    given = tensors(dict(tokens=tokens, targets=targets, mask=mask))
    with torch.no_grad():
        expected = theirs(**given).numpy()
    assert_close("logits", jax.jit(model.apply)(variables, tokens, targets, mask), expected)
    check_gradients(
        lambda v: model.apply(v, tokens, targets, mask), variables, theirs, lambda module: module(**given), TORCH
    )
    written = from_ours(variables, TORCH)
    state = theirs.state_dict()
    assert written.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(written[name], tensor.numpy())
