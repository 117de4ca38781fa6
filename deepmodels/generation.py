"""Texts that a language model writes: prompts in, completions out."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.cache import SLACK
from deepmodels.layers.stack import unstack
from deepmodels.sampling import Beams, Decoding, Sampling, beam_search, begin, decode, decode_speculatively
from deepmodels.tokenizers import Tokenizer
from deepmodels.tokenizers.tokenizer import check_vocab, encode_prompts, pad
from deepmodels.trees import PyTree

CHUNK = 16  # tokens between two looks at what is written, where somebody looks


class Completion(NamedTuple):
    """What a model wrote behind a prompt.

    `tokens` are without the one that ended it. `text` is None without a tokenizer, and ends before the stop string.
    `ended` tells whether an end token or a stop string ended it, or else the greatest number of tokens.
    """

    tokens: list[int]
    text: str | None
    ended: bool


def generate(
    model: nn.Module,
    variables: PyTree,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    tokenizer: Tokenizer | None = None,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    num_beams: int = 1,
    length_penalty: float = 0.0,
    end_tokens: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    draft: tuple[nn.Module, PyTree] | None = None,
    draft_tokens: int = 4,
    quantized: bool = False,
    dtype: Any = jnp.float32,
    seed: int = 0,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Completion]:
    """Returns what a model writes behind each prompt.

        model, variables = deepmodels.loading.load_folder("gpt2")
        tokenizer = deepmodels.tokenizers.load("gpt2")
        print(deepmodels.generate(model, variables, ["The capital of France is"], tokenizer=tokenizer)[0].text)

    The loop over tokens is one program on the device. Prompts of a batch may differ in length; they are padded to one
    of a few lengths, and a program is compiled once for each of these, not for each prompt. On a CPU the parameters are
    taken apart by layers first, at the memory of the model once more; pass `deepmodels.layers.stack.unstack(variables)`
    to do it once for many calls.

    Args:
      model: with `start`, `extend` and `step`, as `deepmodels.models.gpt.GPT` has them.
      variables: its parameters.
      prompts: texts, with a tokenizer, or the tokens of each; a text begins as the tokenizer's file says.
      tokenizer: of the model.
      max_new_tokens: at which a completion is cut off.
      temperature, top_k, top_p, min_p, repetition_penalty: see `deepmodels.sampling.Sampling`; without a temperature
        the likeliest token is taken.
      num_beams: of a beam search, instead of drawing tokens; see `deepmodels.sampling.beam_search`.
      length_penalty: of that.
      end_tokens: that end a completion; by default the tokenizer's end.
      stop: strings that end a completion; a tokenizer is needed.
      draft: a smaller model with the same vocabulary, and its variables; it makes the same completions sooner, if it
        often guesses what the model says.
      draft_tokens: that it guesses at a time.
      quantized: whether keys and values are kept in int8.
      dtype: in which they are kept otherwise.
      seed: of what is drawn; the same for the same seed.
      on_text: called with the number of a prompt and each further piece of its text, while it is written.

    Raises:
      ConfigError: arguments don't go together, a prompt is empty, or prompt and completion are longer than the model
        has positions.
    """
    settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    settings.check()
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens: expected 1 or more, got {max_new_tokens}")
    if tokenizer is None and (stop or on_text is not None):
        raise ConfigError("stop, on_text: these are texts: give a tokenizer")
    if any(not text for text in stop):
        raise ConfigError("stop: an empty string would end every completion")
    rows = _encode(prompts, tokenizer)
    if not rows:
        return []
    if tokenizer is not None:
        check_vocab(tokenizer, model.vocab_size, name="vocab_size of the model")
    for row in rows:
        if not 0 <= min(row) <= max(row) < model.vocab_size:
            raise ConfigError(
                f"prompts: expected tokens from 0 to {model.vocab_size - 1}, got {min(row)} to {max(row)}"
            )
    if end_tokens is None:
        end_tokens = () if tokenizer is None or tokenizer.end_id is None else (tokenizer.end_id,)
    longest = max(map(len, rows))
    models = [model] if draft is None else [model, draft[0]]
    room = _room(models, longest, max_new_tokens)
    tokens, _ = pad(rows, 0, min(_bucket(longest), room))
    lengths = np.array([len(row) for row in rows], np.int32)
    start = partial(_start, batch_size=len(rows), length=room, dtype=dtype, quantized=quantized)
    variables = _apart(variables)

    if num_beams > 1:
        if settings != Sampling() or draft is not None or on_text is not None or len(end_tokens) > 1 or stop:
            raise ConfigError(
                "num_beams: a beam search takes neither a temperature and what goes with it, nor a penalty of "
                "repetition, nor a draft, stop strings, several end tokens, or on_text"
            )
        beams = _search(
            *(model, variables, tokens, lengths, start(model)),
            **dict(end=end_tokens[0] if end_tokens else -1, beam_size=num_beams, max_length=max_new_tokens),
            length_penalty=length_penalty,
        )
        written = [np.asarray(beams.tokens[i, 0, : int(beams.lengths[i, 0])]).tolist() for i in range(len(rows))]
        return [_completion(row, end_tokens, tokenizer, ()) for row in written]

    guess = None
    if draft is not None:
        guess = _Draft(draft[0], _apart(draft[1]), draft_tokens)
        guess.check(model, settings)
    ends = jnp.asarray(np.array(end_tokens or (-1,), np.int32))
    caches = start(model), None if guess is None else start(guess.model)
    common = dict(ends=ends, sampling=settings)
    state = _begin(
        *(model, variables, tokens, lengths, *caches, jax.random.key(seed)),
        **dict(draft=guess and guess.model, draft_variables=guess and guess.variables, length=_bucket(max_new_tokens)),
        **common,
    )
    texts = _Texts(len(rows), tokenizer, end_tokens, stop, on_text) if stop or on_text is not None else None
    at = 1
    while True:
        at = max_new_tokens if texts is None else min(at + CHUNK, max_new_tokens)
        if guess is None:
            state = _decode(model, variables, state, jnp.int32(at), **common)
        else:
            state = _speculate(
                *(model, variables, guess.model, guess.variables, state, jnp.int32(at)),
                **dict(draft_tokens=guess.tokens, **common),
            )
        if texts is not None:
            state = state._replace(done=jnp.asarray(texts.look(state)))
        if at == max_new_tokens or bool(state.done.all()):
            break
    out, count = np.asarray(state.tokens), np.asarray(state.count)
    if texts is not None:
        texts.flush()
    return [_completion(out[i, : count[i]].tolist(), end_tokens, tokenizer, stop) for i in range(len(rows))]


def end_tokens_of(folder: str | os.PathLike) -> tuple[int, ...] | None:
    """Returns the tokens that end a text by a folder's generation_config.json or config.json; None if they don't say.

    Raises:
      ConfigError: one of these files can't be read, or says something else.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if not path.is_file():
            continue
        try:
            said = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} can't be read: {error}") from error
        if said is None:
            continue
        ids = said if isinstance(said, list) else [said]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise ConfigError(f"{path}: eos_token_id is {said!r}, not a token or a list of tokens")
        return tuple(ids)
    return None


class _Draft(NamedTuple):
    """A draft model, its variables, and how many tokens it proposes at a time."""

    model: nn.Module
    variables: PyTree
    tokens: int

    def check(self, model: nn.Module, settings: Sampling) -> None:
        if self.model.vocab_size != model.vocab_size:
            raise ConfigError(
                f"draft: expected the model's vocabulary of {model.vocab_size:,}, got {self.model.vocab_size:,}"
            )
        if not 1 <= self.tokens <= SLACK:
            raise ConfigError(f"draft_tokens: expected 1 to {SLACK}, got {self.tokens}")
        if settings.repetition_penalty is not None:
            raise ConfigError("repetition_penalty: it can't be had with a draft, whose guesses it would change")


class _Texts:
    """The texts while they are written: hands out their pieces, and finds stop strings."""

    def __init__(self, count: int, tokenizer: Tokenizer, ends: Sequence[int], stop: Sequence[str], on_text) -> None:
        self.tokenizer, self.ends, self.stop, self.on_text = tokenizer, ends, stop, on_text
        self.texts, self.told = [""] * count, [0] * count

    def look(self, state: Decoding) -> np.ndarray:
        """Returns which texts have ended, (B,) bool, and hands out what can't change any more."""
        out, count, done = (np.array(x) for x in (state.tokens, state.count, state.done))
        for i in range(len(done)):
            found = _completion(out[i, : count[i]].tolist(), self.ends, self.tokenizer, self.stop)
            self.texts[i] = found.text
            done[i] |= found.ended
            sure = found.text.rstrip("\ufffd")  # the beginning of a character, whose end isn't written yet
            # and of a stop string
            self._tell(i, len(found.text) if done[i] else len(sure) - max((len(s) for s in self.stop), default=1) + 1)
        return done

    def flush(self) -> None:
        """Hands out the rest."""
        for i, text in enumerate(self.texts):
            self._tell(i, len(text))

    def _tell(self, i: int, end: int) -> None:
        if self.on_text is not None and end > self.told[i]:
            self.on_text(i, self.texts[i][self.told[i] : end])
            self.told[i] = end


def _completion(tokens: list[int], ends: Sequence[int], tokenizer: Tokenizer | None, stop: Sequence[str]) -> Completion:
    ended = bool(tokens) and tokens[-1] in ends
    tokens = tokens[:-1] if ended else tokens
    if tokenizer is None:
        return Completion(tokens, None, ended)
    text = tokenizer.decode(tokens)
    found = [text.find(s) for s in stop if s in text]
    if not found:
        return Completion(tokens, text, ended)
    end = min(found)
    count = next(n for n in range(len(tokens)) if len(tokenizer.decode(tokens[:n])) >= end)  # all that it needs
    return Completion(tokens[:count], text[:end], True)


def _encode(prompts: Sequence[str] | Sequence[Sequence[int]], tokenizer: Tokenizer | None) -> list[list[int]]:
    if isinstance(prompts, str):
        raise ConfigError("prompts: expected a list of them, got one text")
    rows = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            if tokenizer is None:
                raise ConfigError("prompts: these are texts: give a tokenizer")
            row = _prompt_ids(tokenizer, prompt)
        else:
            row = [int(token) for token in prompt]
        if not row:
            raise ConfigError(
                f"prompts: number {number} is empty; a text begins behind a token, such as the tokenizer's"
            )
        rows.append(row)
    return rows


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt, without the marks that a tokenizer puts at a text's end."""
    ids, own = tokenizer.frame(prompt)[0], tokenizer.encode(prompt)
    while len(ids) > len(own) and ids[-len(own) :] != own and ids[-1] in tokenizer.special.values():
        ids = ids[:-1]
    return ids


def _room(models: Sequence[nn.Module], longest: int, new: int) -> int:
    """The length of the caches: of the few that there are, the first with room."""
    most = min((m.max_length for m in models if getattr(m, "max_length", None) is not None), default=None)
    if most is not None and longest + new > most:
        raise ConfigError(
            f"max_new_tokens: the longest prompt has {longest} tokens, which leaves {max(0, most - longest)} of the "
            f"model's {most} positions, not {new}"
        )
    room = _bucket(_bucket(longest) + new)
    return room if most is None else min(room, most)


def _bucket(length: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96 ... that isn't less."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _apart(variables: PyTree) -> PyTree:
    return jax.jit(unstack)(variables) if jax.default_backend() == "cpu" else variables


def generate_codes(
    model: nn.Module,
    variables: PyTree,
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    temperature: float | None = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    dtype: Any = jnp.float32,
    seed: int = 0,
) -> np.ndarray:
    """Returns the codes of a picture of each prompt, (N, G, G) int32, which a model of texts and codes writes.

        codes = generate_codes(dalle, variables, ["a red bird"] * 16, tokenizer=tokenizer)
        pictures = dvae.apply(dvae_variables, codes, method="decode_indices")

    Of several pictures of a text `deepmodels.evaluation.rerank` says which fits it best.

    Args:
      model: with `start`, `extend` and `step`, as `deepmodels.models.dalle.DALLE` has them.
      variables: its parameters.
      prompts: N of them; one that is too long is cut, and a warning says so.
      tokenizer: of the model.
      temperature, top_k, top_p: see `deepmodels.sampling.Sampling`; without a temperature the likeliest code is taken.
      dtype: in which keys and values are kept.
      seed: of what is drawn; the same for the same seed, and different for the prompts of one call.

    Raises:
      ConfigError: arguments don't go together, or the model's vocabulary is smaller than the tokenizer's.
    """
    settings = Sampling(temperature, top_k, top_p)
    settings.check()
    check_vocab(tokenizer, model.vocab_size, name="vocab_size of the model")
    tokens = encode_prompts(tokenizer, prompts, model.text_length)
    lengths = np.array([min(len(tokenizer.frame(prompt)[0]), model.text_length) for prompt in prompts], np.int32)
    codes = _paint(model, settings, dtype, _apart(variables), tokens, lengths, jax.random.key(seed))
    return np.asarray(codes).reshape(-1, model.grid, model.grid)


@partial(jax.jit, static_argnums=(0, 2))
def _paint(
    model: nn.Module, settings: Sampling, dtype: Any, variables: PyTree, tokens: Array, lengths: Array, key: Array
) -> Array:
    """All codes (N, G * G) of pictures."""
    count, none = model.grid**2, jnp.zeros(0, jnp.int32)
    extend, step = (partial(model.apply, variables, method=method) for method in ("extend", "step"))
    cache = model.start(len(tokens), dtype)
    options = dict(ends=none, sampling=settings)
    state = begin(extend, cache, tokens, lengths, length=count, key=key, **options)
    return decode(step, state, jnp.int32(count), **options).tokens


@partial(jax.jit, static_argnames=("model", "batch_size", "length", "dtype", "quantized"))
def _start(model: nn.Module, *, batch_size: int, length: int, dtype: Any, quantized: bool) -> dict[str, Array]:
    return model.start(batch_size, length, dtype, quantized=quantized)


def _extend(model: nn.Module, variables: PyTree) -> Callable:
    return lambda tokens, cache, lengths, last: model.apply(variables, tokens, cache, lengths, last, method="extend")


def _step(model: nn.Module, variables: PyTree) -> Callable:
    return lambda tokens, cache: model.apply(variables, tokens, cache, method="step")


@partial(jax.jit, static_argnames=("model", "draft", "length"), donate_argnames=("cache", "draft_cache"))
def _begin(
    model,
    variables,
    tokens,
    lengths,
    cache,
    draft_cache,
    key,
    *,
    draft,
    draft_variables,
    length,
    ends,
    sampling: Sampling,
) -> Decoding:
    second = None if draft is None else (_extend(draft, draft_variables), draft_cache)
    return begin(
        _extend(model, variables),
        cache,
        tokens,
        lengths,
        length=length,
        ends=ends,
        sampling=sampling,
        key=key,
        draft=second,
    )


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _decode(model, variables, state: Decoding, limit, *, ends, sampling: Sampling) -> Decoding:
    return decode(_step(model, variables), state, limit, ends=ends, sampling=sampling)


@partial(jax.jit, static_argnames=("model", "draft", "draft_tokens"), donate_argnames="state")
def _speculate(
    model, variables, draft, draft_variables, state: Decoding, limit, *, ends, sampling: Sampling, draft_tokens: int
) -> Decoding:
    return decode_speculatively(
        *(_extend(model, variables), _step(draft, draft_variables), state, limit),
        **dict(ends=ends, sampling=sampling, draft_tokens=draft_tokens),
    )


@partial(jax.jit, static_argnames=("model", "beam_size", "max_length", "length_penalty", "end"))
def _search(model, variables, tokens, lengths, cache, *, end, beam_size, max_length, length_penalty) -> Beams:
    # all but the last token of each prompt are read; the search begins with that
    _, cache = model.apply(variables, tokens, cache, lengths - 1, method="extend")
    return beam_search(
        _step(model, variables), cache,
        start=jnp.take_along_axis(tokens, (lengths - 1)[:, None], 1)[:, 0], end=end, batch_size=len(tokens),
        beam_size=beam_size, max_length=max_length, length_penalty=length_penalty,
    )  # fmt: skip
