import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients, converted, enliven, padding, tensors, words

from deepmodels.models.transformer import Transformer, sinusoids
from deepmodels.weights.convert import from_ours
from deepmodels.weights.transformer import TORCH

pytestmark = pytest.mark.parity


def torchs():
    """The paper's network of torch's layers, without the two normalisations at the end that `nn.Transformer` adds."""
    torch = oracles.import_torch()
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = dict(d_model=16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
            encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), 3, enable_nested_tensor=False)
            decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), 3)
            self.embedding = nn.Embedding(40, 16)
            self.transformer = nn.Transformer(16, 2, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)

        def forward(self, tokens, targets, mask):
            weight = self.embedding.weight
            source, target = (
                4 * weight[x] + torch.from_numpy(sinusoids(*x.shape[1:], 16)).to(weight.dtype)
                for x in (tokens, targets)
            )
            causal = torch.triu(torch.ones(targets.shape[1], targets.shape[1], dtype=bool), 1)
            hidden = self.transformer(
                source, target, tgt_mask=causal, src_key_padding_mask=~mask, memory_key_padding_mask=~mask
            )
            return hidden @ weight.T

    torch.manual_seed(0)
    return enliven(Model())


def test_outputs_and_gradients_are_torchs():
    import torch

    theirs = torchs()
    model = Transformer(40, 16, 3, 2, 32, attention_bias=True, epsilon=1e-5)
    tokens, targets, mask = words(40), words(40, 5, seed=1), padding()
    variables = converted(model, oracles.state_dict(theirs), TORCH, tokens, targets)
    given = tensors(dict(tokens=tokens, targets=targets, mask=mask))
    theirs.train()  # in evaluation torch takes a shortcut that needs no gradients
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
