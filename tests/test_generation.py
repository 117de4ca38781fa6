"""Writing texts: what is cached, padded, guessed ahead or cut into pieces never changes the tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import generation, trees
from deepmodels.errors import ConfigError
from deepmodels.generation import generate
from deepmodels.layers.stack import unstack
from deepmodels.models import create
from deepmodels.tokenizers import Bytes

NEW = 12
LENGTHS = (2, 25, 7)  # of prompts; the longest is read in one piece that a window's buffer can't hold
FORMS = {  # of each the layers differ: full, in pairs with a window of 3, and normalised behind the sums
    "gpt_tiny": {},
    "gpt3_tiny": {},
    "gpt1": dict(hidden_size=16, num_layers=2, num_heads=2, vocab_size=32, post_norm=True, dropout_rate=0.0),
}


def pair(name="gpt_tiny", seed=0, **overrides):
    """A model whose answers depend on all of its prompt, and its variables."""
    model = create(name, **FORMS.get(name, {}) | dict(max_length=64) | overrides)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(seed)

    def draw(leaf, shape):
        kind = leaf.rpartition("/")[2]
        spread = {"kernel": 1.5 / shape.shape[-2:][0] ** 0.5, "embedding": 0.7, "bias": 0.1, "scale": 0.1}[kind]
        return jnp.asarray((kind == "scale") + rng.normal(0, spread, shape.shape), shape.dtype)

    return model, trees.map_named(draw, shapes)


def prompts(*lengths, vocab=32, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length).tolist() for length in lengths]


def uncached(model, variables, prompt, new=NEW):
    """The likeliest tokens, each from the whole text anew."""
    apply, text = jax.jit(model.apply), list(prompt)
    for _ in range(new):
        padded = np.zeros((1, model.max_length), np.int32)
        padded[0, : len(text)] = text
        text.append(int(apply(variables, padded)[0, len(text) - 1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("name", FORMS)
def test_cached_is_uncached_and_padding_changes_nothing(name):
    model, variables = pair(name)
    given = prompts(*LENGTHS)
    together = generate(model, variables, given, max_new_tokens=NEW)
    for prompt, written in zip(given, together, strict=True):
        assert written == generation.Completion(uncached(model, variables, prompt), None, False)
    assert len({tuple(written.tokens) for written in together}) == 3
    if name == "gpt3_tiny":
        assert generate(model, variables, given[2:], max_new_tokens=NEW) == together[2:]


def test_no_prompt_compiles_anything_anew():
    model, variables = pair(vocab_size=33)
    variables = unstack(variables)
    functions = (generation._begin, generation._decode)
    before = [f._cache_size() for f in functions]
    for length in (3, 9, 16):  # of one bucket
        generate(model, variables, prompts(length), max_new_tokens=8)
    assert [f._cache_size() - n for f, n in zip(functions, before, strict=True)] == [1, 1]
    for settings in (dict(temperature=0.5, top_p=0.9), dict(temperature=0.7, top_p=0.8, seed=3)):
        generate(model, variables, prompts(4), max_new_tokens=8, **settings)
    assert [f._cache_size() - n for f, n in zip(functions, before, strict=True)] == [2, 2]
    generate(model, variables, prompts(20), max_new_tokens=8)
    assert [f._cache_size() - n for f, n in zip(functions, before, strict=True)] == [3, 3]


@pytest.mark.parametrize("name", ["gpt_tiny", "gpt3_tiny"])
def test_guessing_ahead_writes_the_same(name):
    model, variables = pair(name)
    given = prompts(*LENGTHS)
    expected = generate(model, variables, given, max_new_tokens=NEW)
    for guesser in (
        variables,  # always right
        jax.tree.map(lambda x: x * 1.02, variables),  # mostly
        pair(name, seed=5)[1],  # by chance
    ):
        assert generate(model, variables, given, max_new_tokens=NEW, draft=(model, guesser)) == expected


def test_guessing_ahead_calls_the_model_less_often():
    model, variables = pair()
    calls = []

    def count(decode, *arguments, **named):
        state = decode(*arguments, **named)
        calls.append(int(state.rounds))
        return state

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_decode", "_speculate"):
            function = getattr(generation, name)
            patch.setattr(generation, name, lambda *a, f=function, **k: count(f, *a, **k))
        generate(model, variables, prompts(*LENGTHS), max_new_tokens=11)
        generate(model, variables, prompts(*LENGTHS), max_new_tokens=11, draft=(model, variables))
    assert calls == [11, 1 + 2]  # the first token, and then ten with five at a time


def test_drawn_tokens_have_the_models_distribution_with_a_draft_too():
    model, variables = pair(vocab_size=5)
    draft = pair(vocab_size=5, hidden_size=8, seed=3)
    (prompt,), rows = prompts(4, vocab=5), 2000
    pairs = np.array([[*prompt, token] for token in range(5)])
    probs = jax.nn.softmax(jax.jit(model.apply)(variables, pairs) / 3)
    expected = np.asarray(probs[0, -2][:, None] * probs[:, -1]).ravel()
    assert expected.max() < 0.5
    for settings in ({}, dict(draft=draft, draft_tokens=2)):
        written = generate(model, variables, [prompt] * rows, max_new_tokens=3, temperature=3.0, seed=7, **settings)
        counts = np.bincount([w.tokens[0] * 5 + w.tokens[1] for w in written], minlength=25)
        chi_squared = ((counts - rows * expected) ** 2 / (rows * expected)).sum()
        assert chi_squared < 51.2  # one in a thousand of 24 degrees of freedom


def test_a_seed_gives_the_same_again_and_a_row_its_own():
    model, variables = pair()
    given = prompts(25) * 3
    settings = dict(max_new_tokens=NEW, temperature=1.0)
    once, again, other = (generate(model, variables, given, seed=seed, **settings) for seed in (0, 0, 1))
    assert once == again != other
    assert len({tuple(w.tokens) for w in once}) == 3
    assert generate(model, variables, given[:1], **settings) == once[:1]


@pytest.mark.parametrize("name", ["gpt_tiny", "gpt3_tiny"])
def test_int8_is_close(name):
    model, variables = pair(name)
    tokens = np.array(prompts(42))
    logits = {}
    for quantized in (False, True):
        cache = model.start(1, 64, quantized=quantized)
        for start in (0, 14, 28):  # a window's buffer is read back like the others
            extend = jax.jit(lambda t, c: model.apply(variables, t, c, last=False, method="extend"))
            logits[quantized], cache = extend(tokens[:, start : start + 14], cache)
    spread = float(jnp.abs(logits[False]).max())
    assert 0 < float(jnp.abs(logits[True] - logits[False]).max()) < 0.02 * spread
    (prompt,) = prompts(5)
    (written,) = generate(model, variables, [prompt], max_new_tokens=NEW, quantized=True)
    assert len(written.tokens) == NEW


def test_end_tokens_end_a_text_and_are_not_part_of_it():
    model, variables = pair()
    given = prompts(*LENGTHS)
    plain = generate(model, variables, given, max_new_tokens=NEW)
    end = plain[1].tokens[4]
    for draft in (None, (model, variables)):
        ended = generate(model, variables, given, max_new_tokens=NEW, end_tokens=[end], draft=draft)
        for before, after in zip(plain, ended, strict=True):
            cuts = [i for i, token in enumerate(before.tokens) if token == end]
            assert after.tokens == (before.tokens[: cuts[0]] if cuts else before.tokens)
            assert after.ended == bool(cuts)


def spelling():
    """A model of bytes, and a prompt that it writes a long text behind."""
    model, variables = pair(vocab_size=Bytes().vocab_size, max_length=96)
    return model, variables, dict(tokenizer=Bytes(), max_new_tokens=60)


def test_stop_strings_end_a_text_before_them():
    model, variables, settings = spelling()
    (plain,) = generate(model, variables, ["Once"], **settings, end_tokens=())
    stop = plain.text[33:36]
    (stopped,) = generate(model, variables, ["Once"], **settings, end_tokens=(), stop=["not there", stop])
    assert stopped.ended
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert Bytes().decode(stopped.tokens).startswith(stopped.text)
    assert stopped.tokens == plain.tokens[: len(stopped.tokens)]


def test_a_text_is_told_in_pieces_while_it_is_written():
    model, variables, settings = spelling()
    pieces = [[], []]
    told = generate(
        model,
        variables,
        ["Once", "Upon a"],
        **settings,
        end_tokens=(),
        on_text=lambda i, piece: pieces[i].append(piece),
    )
    assert told == generate(model, variables, ["Once", "Upon a"], **settings, end_tokens=())
    for parts, written in zip(pieces, told, strict=True):
        assert "".join(parts) == written.text
        assert len(parts) > 1


def test_more_beams_find_likelier_texts():
    model, variables = pair()
    given = prompts(*[4] * 6, *[9] * 6)
    apply = jax.jit(model.apply)

    def log_probs(written):
        texts = np.zeros((len(given), 15), np.int32)
        for row, (prompt, completion) in zip(texts, zip(given, written, strict=True), strict=True):
            row[: len(prompt) + 6] = prompt + completion.tokens
        scores = np.take_along_axis(
            np.asarray(jax.nn.log_softmax(apply(variables, texts)))[:, :-1], texts[:, 1:, None], 2
        )
        return np.array([row[len(p) - 1 : len(p) + 5].sum() for row, p in zip(scores[..., 0], given, strict=True)])

    greedy = log_probs(generate(model, variables, given, max_new_tokens=6))
    beams = log_probs(generate(model, variables, given, max_new_tokens=6, num_beams=8))
    assert (beams > greedy - 1e-5).all()
    assert (beams > greedy + 0.01).any()


def test_what_does_not_go_together_is_named():
    model, variables = pair()
    cases = {
        r"prompts: expected a list of them, got one text": dict(prompts="Once"),
        r"prompts: these are texts: give a tokenizer": dict(prompts=["Once"]),
        r"prompts: expected tokens from 0 to 31, got 3 to 32": dict(prompts=[[1], [32, 3]]),
        r"prompts: number 1 is empty": dict(prompts=[[1], []]),
        r"max_new_tokens: expected 1 or more, got 0": dict(max_new_tokens=0),
        r"the longest prompt has 60 tokens, which leaves 4 of the model's 64 positions, not 5": dict(
            prompts=[[1] * 60], max_new_tokens=5
        ),
        r"temperature: expected a positive number.*got 0": dict(temperature=0),
        r"top_k: expected 1 or more, got 0": dict(temperature=1.0, top_k=0),
        r"top_p: expected a probability, got 1.5": dict(temperature=1.0, top_p=1.5),
        r"top_k, top_p, min_p: these are for drawing tokens": dict(top_k=4),
        r"repetition_penalty: expected a positive number, got 0": dict(repetition_penalty=0),
        r"stop, on_text: these are texts": dict(stop=["."]),
        r"stop: an empty string": dict(stop=[""], tokenizer=Bytes()),
        r"num_beams: a beam search takes neither": dict(num_beams=2, temperature=1.0),
        r"draft: expected the model's vocabulary of 32, got 40": dict(draft=pair(vocab_size=40)),
        r"draft_tokens: expected 1 to 16, got 17": dict(draft=(model, variables), draft_tokens=17),
        r"repetition_penalty: it can't be had with a draft": dict(draft=(model, variables), repetition_penalty=1.1),
        r"vocab_size of the model: the tokenizer has 260 ids": dict(prompts=["a"], tokenizer=Bytes()),
    }
    for message, arguments in cases.items():
        with pytest.raises(ConfigError, match=message):
            generate(model, variables, **dict(prompts=[[1]], max_new_tokens=4) | arguments)
    assert generate(model, variables, []) == []


def test_end_tokens_of_a_folder(tmp_path):
    assert generation.end_tokens_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert generation.end_tokens_of(tmp_path) == (5,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert generation.end_tokens_of(tmp_path) == (5, 7)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ConfigError, match="eos_token_id is '</s>', not a token or a list of tokens"):
        generation.end_tokens_of(tmp_path)
