"""Llama's lineage and DeepSeek beside transformers: folders that it saved, with random weights, and back."""

import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients, enliven, tensors

from deepmodels.analysis import intermediates
from deepmodels.loading import load_folder, save_folder
from deepmodels.weights import files, folder

pytestmark = pytest.mark.parity

LENGTHS, WRITTEN = (
    (23, 9, 4),
    6,
)  # tokens of the texts, the first one longer than buffers of windows; tokens behind them
SIZES = dict(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    eos_token_id=None,
    pad_token_id=None,
    bos_token_id=None,
)
LATENT = SIZES | dict(
    num_key_value_heads=4,
    moe_intermediate_size=24,
    kv_lora_rank=8,
    qk_rope_head_dim=4,
    qk_nope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=8,
    num_experts_per_tok=3,
)
GEMMA = SIZES | dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=5)
LONGER = dict(factor=4.0, original_max_position_embeddings=16, rope_theta=1e4)
LLAMA3 = LONGER | dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0)
YARN = LONGER | dict(rope_type="yarn")
OF_BOTH = dict(
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
    sliding_attention=dict(rope_type="default", rope_theta=1e4),
)
CASES = {
    "llama": ("LlamaForCausalLM", SIZES | dict(head_dim=8, rope_parameters=LLAMA3)),
    "llama_tied": (
        "LlamaForCausalLM",
        SIZES
        | dict(attention_bias=True, tie_word_embeddings=True)
        | dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    ),
    "mistral": ("MistralForCausalLM", SIZES | dict(sliding_window=5)),
    "mixtral": ("MixtralForCausalLM", SIZES | dict(num_local_experts=4)),
    "qwen2": ("Qwen2ForCausalLM", SIZES | dict(rope_parameters=YARN)),
    "qwen2_window": ("Qwen2ForCausalLM", SIZES | dict(use_sliding_window=True, sliding_window=4, max_window_layers=0)),
    "qwen3": ("Qwen3ForCausalLM", SIZES | dict(head_dim=16)),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        SIZES | dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    ),
    "gemma": ("GemmaForCausalLM", SIZES | dict(head_dim=16)),
    "gemma2": ("Gemma2ForCausalLM", GEMMA | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3ForCausalLM", GEMMA | dict(num_hidden_layers=8, rope_parameters=OF_BOTH)),
    "gpt_oss": (
        "GptOssForCausalLM",
        SIZES | dict(head_dim=16, sliding_window=5, num_local_experts=4, num_experts_per_tok=2),
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        LATENT | dict(first_k_dense_replace=1, n_shared_experts=2, q_lora_rank=None, topk_method="greedy"),
    ),
    "deepseek_v2_groups": (
        "DeepseekV2ForCausalLM",
        LATENT
        | dict(n_shared_experts=2, q_lora_rank=12, routed_scaling_factor=3.0, topk_method="group_limited_greedy")
        | dict(n_group=4, topk_group=2),
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        LATENT
        | dict(first_k_dense_replace=1, n_group=4, topk_group=2, q_lora_rank=16)
        | dict(rope_parameters=YARN | dict(mscale=1.0, mscale_all_dim=0.7)),
    ),
}


def lively(name):
    import torch

    cls, config = CASES[name]
    theirs = enliven(oracles.transformers(cls, **config))
    for module in theirs.modules():
        if hasattr(module, "e_score_correction_bias"):
            torch.nn.init.normal_(module.e_score_correction_bias, 0, 0.1)
    return theirs


def texts():
    tokens = np.random.default_rng(0).integers(2, 40, (len(LENGTHS), max(LENGTHS))).astype(np.int32)
    return tokens, np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]


def routes_of(theirs, given):
    """What each router of theirs says: choices and weights, of each layer."""
    import torch

    said = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: said.append(output))
        for module in theirs.modules()
        if type(module).__name__.lower().endswith("topkrouter")
    ]
    with torch.no_grad():
        output = theirs(**given)
    for hook in hooks:
        hook.remove()
    return output, [(chosen.numpy(), weights.numpy()) for _, weights, chosen in said]


@pytest.mark.parametrize("name", CASES)
def test_the_same_logits_routes_and_tokens_and_back(name, tmp_path):
    import torch

    theirs = lively(name)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")  # several shards
    model, variables = load_folder(tmp_path / "theirs")
    tokens, mask = texts()
    output, routes = routes_of(theirs, tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32))))
    expected = output.logits.numpy()
    assert_close(name, np.asarray(jax.jit(model.apply)(variables, tokens, mask))[mask], expected[mask])

    if routes:
        find = jax.jit(lambda v: intermediates(model, v, tokens, mask, pattern="*router"))
        found = {name.rpartition("/")[2]: array for name, array in find(variables).items()}
        for layer, (chosen, weights) in enumerate(routes):
            held = mask.reshape(-1)  # what padding chooses counts for nothing
            ours, chosen, weights = np.asarray(found["chosen"][layer])[held], chosen[held], weights[held]
            np.testing.assert_array_equal(np.sort(ours), np.sort(chosen))
            got = np.take_along_axis(np.asarray(found["weights"][layer])[held], np.argsort(ours), 1)
            np.testing.assert_allclose(got, np.take_along_axis(weights, np.argsort(chosen), 1), rtol=1e-4, atol=1e-6)

    # the cache: prompts of different lengths at once, in two pieces, then token by token
    extend = jax.jit(lambda *a: model.apply(variables, *a, method="extend"))
    step = jax.jit(lambda *a: model.apply(variables, *a, method="step"))
    lengths, cut = np.array(LENGTHS, np.int32), 7
    cache = model.start(len(LENGTHS), max(LENGTHS) + WRITTEN)
    first = np.minimum(lengths, cut)
    early, cache = extend(tokens[:, :cut], cache, first)
    logits, cache = extend(tokens[:, cut:], cache, lengths - first)
    logits = np.where((lengths > cut)[:, None], logits, early)
    written = []
    for _ in range(WRITTEN):
        written.append(logits.argmax(-1).astype(np.int32))
        logits, cache = step(written[-1], cache)
    for row, length in enumerate(LENGTHS):
        prompt = torch.from_numpy(tokens[row : row + 1, :length].astype(np.int64))
        told = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=WRITTEN, do_sample=False, pad_token_id=0
        )
        assert told[0, length:].tolist() == [int(tokens[row]) for tokens in written]

    save_folder(tmp_path / "ours", model, variables)
    cls = CASES[name][0]
    again, said = getattr(oracles.import_transformers(), cls).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(said.values()), said
    state = again.state_dict()
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(state[key].numpy(), tensor.numpy())
    with torch.no_grad():
        told = again(**tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32)))).logits.numpy()
    np.testing.assert_array_equal(told[mask], expected[mask])  # so the config says the same, too


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "deepseek_v3"])
def test_gradients_of_all_parameters(name, tmp_path):
    theirs = lively(name)
    theirs.set_experts_implementation("eager")  # the other ones have no float64
    theirs.save_pretrained(tmp_path)
    model, variables = load_folder(tmp_path)
    tokens, mask = texts()
    tokens, mask = tokens[:, :11], mask[:, :11]
    given = tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32)))
    config = folder.read_config(tmp_path)
    rules = folder.describe(config, files.read(tmp_path)).rules
    check_gradients(
        lambda v: model.apply(v, tokens, mask)[mask],
        variables,
        theirs,
        lambda module: module(**given).logits[mask],
        rules,
        tolerance=2e-5,  # their positions, normalisations and softmax are in float32, whatever comes in
    )


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_load_balancing_loss(name, tmp_path):
    """Of one layer: theirs takes the means over all layers first, the papers' is of each."""
    import torch

    cls, config = CASES[name]
    theirs = enliven(oracles.transformers(cls, **config | dict(num_hidden_layers=1)))
    theirs.save_pretrained(tmp_path)
    model, variables = load_folder(tmp_path)
    tokens, mask = texts()
    given = tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32)))
    with torch.no_grad():
        expected = theirs(**given, output_router_logits=True).aux_loss
    _, sown = jax.jit(lambda v: model.apply(v, tokens, mask, mutable=["losses"]))(variables)
    (loss,) = sown["losses"]["layers"]["mlp"]["router"]["load_balancing"]
    np.testing.assert_allclose(loss, [expected.item()], rtol=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_experts_in_one_array_as_they_are_in_memory(name, tmp_path):
    theirs = lively(name)
    theirs.save_pretrained(tmp_path)
    _, variables = load_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = oracles.state_dict(theirs)
    assert any("gate_up_proj" in key for key in state)
    files.write(tmp_path / "model.safetensors", state)
    _, again = load_folder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
