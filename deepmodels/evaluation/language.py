"""What a language model knows: perplexity with a stride, likelihoods of choices, answers that match exactly.

`forward(tokens, mask)` is the model with its parameters bound: integers (B, T) and bools, True where a token is, to
logits (B, T, V) of what follows each. It is compiled here, once for each shape.
"""

import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.errors import ConfigError

Forward = Callable[[jax.Array, jax.Array], jax.Array]


class Question(NamedTuple):
    """A question with choices, of which one is right."""

    prompt: str
    choices: tuple[str, ...]  # each as it goes on from the prompt, with a space in front where one belongs
    answer: int


def token_log_likelihoods(forward: Forward, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log p of each token given those before it, float32 (B, T); 0 for the first ones and for padding.

    Args:
      forward: see the module.
      tokens: (B, T) integers.
      mask: (B, T) of bools.
    """
    logits = forward(tokens, mask)[:, :-1]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    scores = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.pad(jnp.where(mask[:, 1:] & mask[:, :-1], scores, 0), ((0, 0), (1, 0)))


def perplexity(
    forward: Forward, tokens: Sequence[int], *, window: int, stride: int | None = None, batch_size: int = 8
) -> tuple[float, int]:
    """Returns a long text's perplexity per token, and of how many tokens: all but the first.

    The text is read in windows that begin `stride` tokens apart; in each, only tokens count that the one before it
    didn't reach, so that all but those of the first have window - stride tokens or more before them.

    Args:
      forward: see the module.
      tokens: integers (T,), T > 1.
      window: tokens that the model reads at once.
      stride: from 1, the most exact and the slowest, to `window`, the default.
      batch_size: windows at once.

    Raises:
      ConfigError: there is but one token, or the stride isn't between 1 and `window`.
    """
    tokens = np.asarray(tokens, np.int32)
    stride = window if stride is None else stride
    if not 1 <= stride <= window or window < 2:
        raise ConfigError(f"stride: expected 1 to window={window}, of 2 or more, got {stride}")
    if len(tokens) < 2:
        raise ConfigError(f"tokens: a perplexity is of two or more, got {len(tokens)}")
    # with no overlap the first token of a window would follow nothing: it begins one earlier instead
    begins, counted = [0], [1]
    while begins[-1] + window < len(tokens):
        end = begins[-1] + window
        begins.append(min(begins[-1] + stride, end - 1))
        counted.append(end)
    rows = [tokens[begin : begin + window] for begin in begins]
    total = 0.0
    scores = _scores(forward, rows, window, batch_size)
    for row, begin, first in zip(scores, begins, counted, strict=True):
        total += row[first - begin :].sum(dtype=np.float64)
    return float(np.exp(-total / (len(tokens) - 1))), len(tokens) - 1


class Scores(NamedTuple):
    """What continuations are worth."""

    log_likelihood: np.ndarray  # (N,) float64, of the whole continuation
    tokens: np.ndarray  # (N,) int64: of how many


def score_continuations(
    forward: Forward,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
) -> Scores:
    """Returns log p of each continuation given its context.

    Args:
      forward: see the module.
      contexts: N lists of integers, of one or more.
      continuations: N lists of integers, of one or more.
      batch_size: rows at once; they are padded to the length of the longest of all.
      max_length: tokens that the model reads at most; more are cut off where the context begins.

    Raises:
      ConfigError: one is empty, there aren't as many of both, or a continuation is as long as `max_length` or longer.
    """
    if len(contexts) != len(continuations) or not contexts:
        raise ConfigError(f"continuations: expected one for each of {len(contexts)} contexts, got {len(continuations)}")
    if not all(map(len, contexts)) or not all(map(len, continuations)):
        raise ConfigError("contexts, continuations: expected one token or more in each; begin a text with bos")
    rows = [[*context, *rest] for context, rest in zip(contexts, continuations, strict=True)]
    if max_length is not None:
        rows = [row[-max_length:] for row in rows]
    lengths = np.array([len(rest) for rest in continuations])
    for row, length in zip(rows, lengths, strict=True):
        if len(row) <= length:
            raise ConfigError(f"max_length: a continuation of {length} tokens leaves no room for what is before it")
    scores = _scores(forward, rows, max(map(len, rows)), batch_size)
    sums = [row[-length:].sum(dtype=np.float64) for row, length in zip(scores, lengths, strict=True)]
    return Scores(np.array(sums), lengths)


def multiple_choice(
    forward: Forward,
    encode: Callable[[str], Sequence[int]],
    questions: Sequence[Question],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
) -> dict[str, float]:
    """Returns how many questions a model has right, when its answer is the choice that it finds likeliest.

    Brown et al. (2020), arXiv:2005.14165, section 2.4.

    Args:
      forward: see the module.
      encode: text to integers, with what begins a text, if the model knows such a token.
      questions: see `Question`; `few_shot` makes prompts with examples.
      batch_size, max_length: as in `score_continuations`.

    Returns:
      "accuracy" by the likelihood of the whole choice, "accuracy_per_token" and "accuracy_per_character" by that of
      its average token and character, which don't favour short ones.

    Raises:
      ConfigError: there are no questions, or an answer isn't the number of a choice.
    """
    contexts, continuations = [], []
    for question in questions:
        if not 0 <= question.answer < len(question.choices):
            raise ConfigError(f"answer: expected 0 to {len(question.choices) - 1}, got {question.answer}")
        for choice in question.choices:
            context, rest = _split(encode, question.prompt, choice)
            contexts.append(context)
            continuations.append(rest)
    scores = score_continuations(forward, contexts, continuations, batch_size=batch_size, max_length=max_length)
    characters = np.array([len(choice) for question in questions for choice in question.choices])
    ends = np.cumsum([len(question.choices) for question in questions])
    truth = np.array([question.answer for question in questions])

    def accuracy(values: np.ndarray) -> float:
        return float(np.mean([part.argmax() for part in np.split(values, ends[:-1])] == truth))

    return {
        "accuracy": accuracy(scores.log_likelihood),
        "accuracy_per_token": accuracy(scores.log_likelihood / scores.tokens),
        "accuracy_per_character": accuracy(scores.log_likelihood / characters),
    }


def few_shot(
    examples: Iterable[tuple[str, str]], question: str, *, form: str = "Q: {}\nA:", separator: str = "\n\n"
) -> str:
    """Returns a prompt of questions with their answers, and one that has none yet. Brown et al. (2020), section 2.

    Args:
      examples: pairs of a question and its answer; none for a prompt without examples.
      question: what is asked.
      form: how a question is written; the answer follows it, behind a space.
      separator: what stands between two.
    """
    return separator.join([*(f"{form.format(asked)} {answer}" for asked, answer in examples), form.format(question)])


def exact_match(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """Returns the share of predictions that are a reference, but for case, punctuation, articles and spaces.

    Rajpurkar et al. (2016), arXiv:1606.05250, section 6.1.

    Args:
      predictions: N texts.
      references: for each a text, or several that are right.

    Raises:
      ConfigError: there are none, or not as many of both.
    """
    if not predictions or len(predictions) != len(references):
        raise ConfigError(f"references: expected one for each of {len(predictions)} predictions, got {len(references)}")
    right = [
        _normalised(said) in map(_normalised, (truth,) if isinstance(truth, str) else truth)
        for said, truth in zip(predictions, references, strict=True)
    ]
    return float(np.mean(right))


def _normalised(text: str) -> list[str]:
    words = text.lower().translate(str.maketrans("", "", string.punctuation)).split()
    return [word for word in words if word not in ("a", "an", "the")]


def _split(encode: Callable[[str], Sequence[int]], prompt: str, choice: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those by which the whole is longer; spaces belong to what follows them."""
    bare = prompt.rstrip()
    whole, context = list(encode(prompt + choice)), list(encode(bare))
    return context, whole[len(context) :]


def _scores(forward: Forward, rows: Sequence[Sequence[int]], width: int, batch_size: int) -> Iterator[np.ndarray]:
    """The log-likelihoods of the tokens of each row, in batches of one shape."""

    @jax.jit
    def scores(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        return token_log_likelihoods(forward, tokens, mask)

    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        tokens = np.zeros((batch_size, width), np.int32)
        mask = np.zeros((batch_size, width), bool)
        for number, row in enumerate(part):
            tokens[number, : len(row)], mask[number, : len(row)] = row, True
        found = np.asarray(scores(tokens, mask))
        yield from (values[: len(row)] for values, row in zip(found, part, strict=False))
