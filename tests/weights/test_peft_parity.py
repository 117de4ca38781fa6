"""Adapters of LoRA that peft made, and adapters that it loads: the same logits, of GPT-2's transposed kernels too."""

import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, lively, tensors, words

from deepmodels import loading, trees
from deepmodels.training import lora
from deepmodels.training.step import bind

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks for it
]

SIZES = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
CASES = {
    "GPT2LMHeadModel": (
        dict(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None),
        dict(target_modules=["c_attn", "c_fc", "mlp.c_proj"], fan_in_fan_out=True),
        r".*attention/(query|value)|.*dense1",
    ),
    "LlamaForCausalLM": (
        SIZES | dict(num_key_value_heads=2, bos_token_id=None, eos_token_id=None),
        dict(target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 5}),
        r".*attention/(query|out)|.*mlp/up",
    ),
}


def logits(theirs, tokens):
    import torch

    with torch.no_grad():
        return theirs(**tensors(dict(input_ids=tokens))).logits.numpy()


def ours(model, params, tokens):
    return jax.jit(lambda params: bind(model, params, {}, train=False)(tokens)[0])(params)


@pytest.mark.parametrize("name", CASES)
def test_forward_as_peft_has_it(name, tmp_path):
    import torch

    config, adapters, _ = CASES[name]
    theirs, tokens = lively(name, **config), words(40, 9)
    peft = pytest.importorskip("peft")  # after transformers, which the oracles import in their own way
    theirs.save_pretrained(tmp_path / "base")
    model, variables = loading.load_folder(tmp_path / "base")
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=12, task_type="CAUSAL_LM", **adapters))
    with torch.no_grad():
        for key, tensor in adapted.named_parameters():
            if "lora_B" in key:
                tensor.normal_(0, 0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = logits(adapted.eval(), tokens)

    params = loading.load_adapter(tmp_path / "adapter", model, variables["params"])
    assert np.abs(expected - ours(model, variables["params"], tokens)).max() > 0.01 * np.abs(expected).max()
    assert_close(name, ours(model, params, tokens), expected)
    assert_close(f"{name}, merged", ours(model, lora.merge(params), tokens), expected)

    loading.save_adapter(tmp_path / "again", model, params)  # and back, where nothing has changed
    again = loading.load_adapter(tmp_path / "again", model, variables["params"])
    for leaf, values in trees.flatten(params).items():
        np.testing.assert_allclose(trees.flatten(again)[leaf], values, rtol=1e-6, err_msg=leaf)


@pytest.mark.parametrize("name", CASES)
def test_peft_loads_what_was_learned_here(name, tmp_path):
    config, _, pattern = CASES[name]
    theirs, tokens = lively(name, **config), words(40, 9)
    peft = pytest.importorskip("peft")
    theirs.save_pretrained(tmp_path / "base")
    model, variables = loading.load_folder(tmp_path / "base")
    params = lora.add(variables["params"], jax.random.key(0), rank=3, alpha=5, pattern=pattern)
    draws = np.random.default_rng(0)
    params = trees.map_named(
        lambda leaf, x: draws.normal(0, 0.3, x.shape).astype(np.float32) if leaf.endswith("lora_b") else x, params
    )
    loading.save_adapter(tmp_path / "adapter", model, params)
    base = getattr(oracles.import_transformers(), name).from_pretrained(tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert_close(name, ours(model, params, tokens), logits(adapted.eval(), tokens))
