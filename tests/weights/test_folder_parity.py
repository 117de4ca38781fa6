"""Folders that transformers saved, and folders that it loads."""

import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, lively, tensors, words

from deepmodels.loading import load_folder, save_folder

pytestmark = pytest.mark.parity

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
CASES = {
    "BertModel": SIZES | dict(vocab_size=40),
    "BertForTokenClassification": SIZES | dict(vocab_size=40, num_labels=5),
    "RobertaForMaskedLM": SIZES | dict(vocab_size=40),
    "DistilBertForSequenceClassification": dict(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "T5ForConditionalGeneration": dict(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2),
    "OpenAIGPTLMHeadModel": dict(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "GPT2LMHeadModel": dict(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, n_inner=24),
    "ViTForImageClassification": SIZES | dict(image_size=32, patch_size=8, num_labels=5),
    "Dinov2Model": SIZES | dict(image_size=32, patch_size=8, use_mask_token=False),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tmp_path):
    import torch

    theirs = lively(name, **CASES[name])
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")  # several shards
    model, variables = load_folder(tmp_path / "theirs")
    if name.startswith(("ViT", "Dino")):
        images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
        given, ours = dict(pixel_values=images), [images.transpose(0, 2, 3, 1)]
    else:
        tokens = words(40)
        given, ours = dict(input_ids=tokens), [tokens]
        if name.startswith("T5"):
            given, ours = given | dict(decoder_input_ids=tokens), [tokens, tokens]
    with torch.no_grad():
        expected = theirs(**tensors(given))
    expected = expected.get("logits", expected.get("last_hidden_state" if name == "BertModel" else "pooler_output"))
    got = jax.jit(model.apply)(variables, *ours)
    assert_close(name, got["hidden"] if isinstance(got, dict) else got, expected.numpy())

    save_folder(tmp_path / "ours", model, variables)
    again, said = getattr(oracles.import_transformers(), name).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(said.values()), said
    state = again.state_dict()
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(state[key].numpy(), tensor.numpy())
