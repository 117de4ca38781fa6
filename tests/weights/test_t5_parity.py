import jax
import numpy as np
import pytest
from text_comparison import (
    assert_close,
    check_gradients,
    check_written,
    converted,
    enliven,
    lively,
    padding,
    saved,
    tensors,
    words,
)

from deepmodels.models.t5 import T5
from deepmodels.weights.t5 import TRANSFORMERS

pytestmark = pytest.mark.parity

SIZES = dict(vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, mlp_size=32, head_size=4, num_decoder_layers=2)
SIZES |= dict(num_buckets=8, max_distance=12)
THEIRS = dict(
    vocab_size=40,
    d_model=16,
    num_layers=3,
    num_heads=2,
    d_ff=32,
    d_kv=4,
    num_decoder_layers=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=12,
)


def pair(version):
    """A model of transformers, and ours."""
    import torch

    if version == "1.0":
        return lively("T5ForConditionalGeneration", **THEIRS), T5(**SIZES)
    theirs = lively("T5ForConditionalGeneration", **THEIRS, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs.lm_head = torch.nn.Linear(16, 40, bias=False)  # transformers 5 ties it all the same
    return enliven(theirs), T5(**SIZES, gated=True)


def given(length):
    mask = padding(length)
    return words(40, length), words(40, 9, seed=1), mask


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gives_what_transformers_gives(version, tmp_path):
    import torch

    theirs, model = pair(version)
    tokens, targets, mask = given(15)  # farther apart than the last bucket begins
    arrays = saved(theirs, tmp_path / "theirs") if version == "1.0" else state(theirs)
    variables = converted(model, arrays, TRANSFORMERS, tokens, targets)
    with torch.no_grad():
        expected = theirs(
            **tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32), decoder_input_ids=targets))
        ).logits.numpy()
    assert_close("logits", jax.jit(model.apply)(variables, tokens, targets, mask), expected)
    if version == "1.0":
        check_written(variables, TRANSFORMERS, theirs, tmp_path)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gradients_of_all_parameters(version):
    theirs, model = pair(version)
    tokens, targets, mask = given(7)
    variables = converted(model, state(theirs), TRANSFORMERS, tokens, targets)
    inputs = tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32), decoder_input_ids=targets))
    check_gradients(
        lambda v: model.apply(v, tokens, targets, mask),
        variables,
        theirs,
        lambda module: module(**inputs).logits,
        TRANSFORMERS,
        tolerance=1e-5,  # their normalisations and softmax are in float32, whatever comes in
    )


def state(module):
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
