import jax
import numpy as np
import oracles
import pytest
from text_comparison import assert_close, check_gradients, converted, lively, padding, saved, tensors, words

from deepmodels import trees
from deepmodels.generation import generate
from deepmodels.loading import load_folder
from deepmodels.models.gpt import GPT
from deepmodels.sampling import Sampling, process
from deepmodels.weights.gpt import GPT1, GPT2

pytestmark = pytest.mark.parity

SIZES = dict(vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, max_length=32, dropout_rate=0.0)
THEIRS = dict(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None)
CASES = {
    "OpenAIGPTLMHeadModel": (GPT(**SIZES, post_norm=True), GPT1),
    "GPT2LMHeadModel": (GPT(**SIZES), GPT2),
}


@pytest.mark.parametrize("name", CASES)
def test_gives_what_transformers_gives_and_writes_the_same(name, tmp_path):
    import torch

    theirs, (model, rules) = lively(name, **THEIRS), CASES[name]
    tokens, mask = words(40, 9), padding(9)
    variables = converted(model, saved(theirs, tmp_path), rules, tokens)
    with torch.no_grad():
        expected = theirs(**tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32)))).logits.numpy()
    logits = jax.jit(model.apply)(variables, tokens, mask)
    for row, length in enumerate(mask.sum(1)):
        assert_close("logits", logits[row, :length], expected[row, :length])

    given = [tokens[row, :length].tolist() for row, length in enumerate(mask.sum(1))]
    for prompt, written in zip(given, generate(model, variables, given, max_new_tokens=16), strict=True):
        assert written.tokens == theirs_of(theirs, prompt, max_new_tokens=16)


def theirs_of(theirs, prompt, **settings):
    """The tokens that transformers' generate writes behind a prompt, by itself and unpadded."""
    inputs = tensors(dict(input_ids=np.array([prompt]), attention_mask=np.ones((1, len(prompt)), np.int64)))
    written = theirs.generate(**inputs, do_sample=False, pad_token_id=0, **settings)
    return written[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_all_parameters(name):
    theirs, (model, rules) = lively(name, **THEIRS), CASES[name]
    tokens = words(40, 7)
    arrays = {name: p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    check_gradients(
        lambda v: model.apply(v, tokens),
        converted(model, arrays, rules, tokens),
        theirs,
        lambda module: module(**tensors(dict(input_ids=tokens))).logits,
        rules,
    )


def test_the_files_of_the_first_days_have_no_prefix(tmp_path):
    theirs, (model, rules) = lively("GPT2LMHeadModel", **THEIRS), CASES["GPT2LMHeadModel"]
    arrays = {key.removeprefix("transformer."): array for key, array in saved(theirs, tmp_path).items()}
    arrays |= {f"h.{layer}.attn.bias": np.tril(np.ones((1, 1, 32, 32), bool)) for layer in range(2)}
    tokens = words(40)
    old, new = converted(model, arrays, rules, tokens), load_folder(tmp_path)[1]
    jax.tree.map(np.testing.assert_array_equal, old, new)


def neo(theirs) -> dict[str, np.ndarray]:
    """GPT-Neo's arrays by the names of ours."""
    arrays = {key: array for key, array in oracles.state_dict(theirs).items() if not key.startswith("lm_head")}
    names = {
        "ln_1": "norm1", "ln_2": "norm2", "mlp.c_fc": "dense1", "mlp.c_proj": "dense2",
        **{f"attn.attention.{t}": f"attention/{o}" for t, o in
           {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}.items()},
    }  # fmt: skip
    params = {
        "token_embed/embedding": arrays["transformer.wte.weight"],
        "position_embed/embedding": arrays["transformer.wpe.weight"],
        "norm/scale": arrays["transformer.ln_f.weight"],
        "norm/bias": arrays["transformer.ln_f.bias"],
    }
    for kind, first in (("dense", 0), ("banded", 1)):
        for them, us in names.items():
            rows = [f"transformer.h.{layer}.{them}" for layer in range(first, 4, 2)]
            weights = np.stack([arrays[f"{row}.weight"] for row in rows])
            biases = [arrays.get(f"{row}.bias", np.zeros(16, np.float32)) for row in rows]
            norm = us.startswith("norm")
            weights *= 8**0.5 if us.endswith("query") else 1  # what their attention doesn't divide by
            params[f"layers/{kind}/{us}/{'scale' if norm else 'kernel'}"] = weights if norm else weights.swapaxes(1, 2)
            params[f"layers/{kind}/{us}/bias"] = np.stack(biases)
    return params


def test_bands_are_those_of_gpt_neo():
    """GPT-Neo alternates the same two kinds of layers; it has no biases before the attention, and no scale in it."""
    import torch

    theirs = lively(
        *("GPTNeoForCausalLM",),
        **dict(vocab_size=40, hidden_size=16, num_layers=4, num_heads=2, max_position_embeddings=32, window_size=5),
        **dict(attention_types=[[["global", "local"], 2]], bos_token_id=None, eos_token_id=None),
    )
    model = GPT(**SIZES | dict(num_layers=4), window=5)
    tokens = words(40, 20)
    shapes, arrays = jax.eval_shape(model.init, jax.random.key(0), tokens), neo(theirs)
    variables = trees.map_named(lambda name, leaf: arrays[name.removeprefix("params/")].reshape(leaf.shape), shapes)
    with torch.no_grad():
        expected = theirs(**tensors(dict(input_ids=tokens))).logits.numpy()
    assert_close("logits", jax.jit(model.apply)(variables, tokens), expected)
    wider = jax.jit(model.clone(window=6).apply)(variables, tokens)
    assert np.abs(np.asarray(wider) - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("settings", [dict(repetition_penalty=1.3), dict(num_beams=4)])
def test_penalties_and_beams_choose_what_transformers_chooses(settings, ends, tmp_path):
    theirs, (model, _) = lively("GPT2LMHeadModel", **THEIRS), CASES["GPT2LMHeadModel"]
    theirs.save_pretrained(tmp_path)
    variables = load_folder(tmp_path)[1]
    tokens = words(40, 9)
    given = [tokens[row, :length].tolist() for row, length in enumerate((9, 4, 2))]
    written = generate(model, variables, given, max_new_tokens=8, **settings)
    end = None
    if ends:
        end = written[0].tokens[3]
        written = generate(model, variables, given, max_new_tokens=8, end_tokens=(end,), **settings)
        assert written[0].ended
    for prompt, completion in zip(given, written, strict=True):
        expected = theirs_of(theirs, prompt, max_new_tokens=8, length_penalty=0.0, eos_token_id=end, **settings)
        assert completion.tokens == (expected[: expected.index(end)] if end in expected else expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dict(top_k=5), ("TopKLogitsWarper", 5)),
        (dict(top_k=100), ("TopKLogitsWarper", 100)),
        (dict(top_p=0.7), ("TopPLogitsWarper", 0.7)),
        (dict(top_p=0.0), ("TopPLogitsWarper", 0.0)),
        (dict(min_p=0.2), ("MinPLogitsWarper", 0.2)),
        (dict(temperature=0.3), ("TemperatureLogitsWarper", 0.3)),
        (dict(repetition_penalty=1.7), ("RepetitionPenaltyLogitsProcessor", 1.7)),
        (dict(repetition_penalty=0.6), ("RepetitionPenaltyLogitsProcessor", 0.6)),
    ],
)
def test_logits_are_processed_as_transformers_does(ours, theirs):
    import torch

    name, value = theirs
    oracles.import_transformers()
    from transformers.generation import logits_process

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6, 40)).astype(np.float32)
    text = rng.integers(0, 40, (6, 9))
    seen = np.zeros((6, 40), bool)
    seen[np.arange(6)[:, None], text] = True
    expected = getattr(logits_process, name)(value)(torch.from_numpy(text), torch.from_numpy(logits)).numpy()
    got = jax.jit(process)(logits, Sampling(**dict(temperature=1.0) | ours), seen)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.any(got != logits) == (value != 100)
