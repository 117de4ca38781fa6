"""What a tokenizer is, and how texts become arrays."""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepmodels.errors import ConfigError

ROLES = ("pad", "bos", "eos", "unk", "mask", "cls", "sep", "fim_prefix", "fim_suffix", "fim_middle")


class Tokenizer:
    """Text to numbers and back; the base of all tokenizers.

    Attributes:
      vocab_size: ids are 0 to vocab_size - 1.
      special: ids by what they are for, as far as the tokenizer has them: "pad", "bos" and "eos" (begin and end of a
        sequence), "unk" (what it doesn't know), "mask", "cls" and "sep" (BERT's marks of a text), "fim_prefix",
        "fim_suffix" and "fim_middle" (the parts of a text whose middle is to be written). One id may have two.
      sentinels: ids that stand for spans that were taken out, in their order; T5's <extra_id_0> and so on.
    """

    vocab_size: int
    special: Mapping[str, int]
    sentinels: tuple[int, ...] = ()

    @property
    def start_id(self) -> int | None:
        """What a decoder starts from: bos, or else cls, or else pad, as T5's does; None without any."""
        return next((self.special[role] for role in ("bos", "cls", "pad") if role in self.special), None)

    @property
    def end_id(self) -> int | None:
        """What ends what a decoder writes: eos, or else sep; None without either."""
        return next((self.special[role] for role in ("eos", "sep") if role in self.special), None)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out."""
        raise NotImplementedError

    def frame(
        self, text: str, pair: str | None = None, *, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Returns ids with the special ones that models of this vocabulary expect, and the segment of each: 0 or 1.

        Args:
          text: the first text.
          pair: the second, whose segment is 1.
          max_length: the most ids, special ones included; the longer of the two texts is cut first.

        Raises:
          ConfigError: the special ids alone are more than `max_length`.
        """
        first, second = self.encode(text), None if pair is None else self.encode(pair)
        start, end = ([self.special[role]] if role in self.special else [] for role in ("cls", "sep"))
        added = len(start) + len(end) * (1 if second is None else 2)
        keep, keep_second = cut(len(first), len(second or ()), added, max_length)
        ids = start + first[:keep] + end
        segments = [0] * len(ids)
        if second is not None:
            ids += second[:keep_second] + end
            segments += [1] * (len(ids) - len(segments))
        return ids, segments


def cut(first: int, second: int, added: int, max_length: int | None) -> tuple[int, int]:
    """Returns how many ids of two texts stay when the longer one is cut first, and both alike once they are as long.

    Args:
      first: ids of the first text.
      second: ids of the second.
      added: special ids, which stay.
      max_length: the most ids of all; None cuts nothing.

    Raises:
      ConfigError: there is no room for the special ids.
    """
    if max_length is None:
        return first, second
    room = max_length - added
    if room < 0:
        raise ConfigError(f"max_length: the {added} special ids alone are more than {max_length}")
    if first + second <= room:
        return first, second
    shorter = min(first, second)
    if shorter <= room // 2:
        longer = room - shorter
        return (shorter, longer) if first <= second else (longer, shorter)
    half, rest = room // 2, room - room // 2
    return (half, rest) if first <= second else (rest, half)


class Encoded(NamedTuple):
    """Texts as arrays of one shape, (N, T)."""

    tokens: np.ndarray  # int32
    mask: np.ndarray  # bool: where there is a token; False at the padding
    segments: np.ndarray  # int32: 0 for the first text and the padding, 1 for the second


def encode_batch(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    width: int | None = None,
) -> Encoded:
    """Returns texts, or pairs of texts, framed, cut and padded at the right.

    Args:
      tokenizer: what encodes them.
      texts: N of them.
      pairs: the second text of each.
      max_length: the most ids of one entry, special ones included.
      width: T; by default the longest entry's.

    Raises:
      ConfigError: there aren't as many second texts as first ones, or an entry is longer than `width`.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise ConfigError(f"pairs: expected one for each of the {len(texts)} texts, got {len(pairs)}")
    seconds = [None] * len(texts) if pairs is None else pairs
    framed = [tokenizer.frame(text, pair, max_length=max_length) for text, pair in zip(texts, seconds, strict=True)]
    tokens, mask = pad([ids for ids, _ in framed], tokenizer.special.get("pad", 0), width)
    segments, _ = pad([segments for _, segments in framed], 0, width)
    return Encoded(tokens, mask, segments)


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], length: int = 77) -> np.ndarray:
    """Returns prompts as the text tower of CLIP takes them, (N, length) int32: framed, and filled up at the right.

    A prompt with more ids than there is room for is cut at its end, as CLIP's authors do, and a warning says so.

    Args:
      tokenizer: what encodes them.
      prompts: N of them.
      length: the most ids of one, special ones included.

    Raises:
      ConfigError: prompts are one text instead of several.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts: expected a sequence of texts, got one: [{prompts!r}]")
    for prompt in prompts:
        count = len(tokenizer.frame(prompt)[0])
        if count > length:
            start = prompt if len(prompt) <= 40 else f"{prompt[:40]}..."
            said = f"the prompt {start!r} has {count} tokens, {count - length} more than {length}, which are cut"
            warnings.warn(said, stacklevel=2)
    return encode_batch(tokenizer, prompts, max_length=length, width=length).tokens


def pad(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of integers as one int32 array (N, T), filled at the right, and where it isn't filling, as bools.

    Args:
      rows: N of them.
      value: what fills.
      width: T; by default the longest row's.

    Raises:
      ConfigError: a row is longer than `width`.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    width = longest if width is None else width
    if longest > width:
        raise ConfigError(f"width: an entry has {longest} ids, more than {width}; cut them with max_length={width}")
    mask = np.arange(width) < lengths[:, None]
    array = np.full((len(rows), width), value, np.int32)
    array[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows]) if len(rows) else 0
    return array, mask


def check_vocab(tokenizer: Tokenizer, vocab_size: int, *, name: str = "vocab_size") -> None:
    """Checks that each id of a tokenizer has a row in an embedding of `vocab_size` rows; it may have more, as T5's has.

    Raises:
      ConfigError: it doesn't; the message calls the size `name`.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{name}: the tokenizer has {tokenizer.vocab_size:,} ids, the model's embedding only {vocab_size:,} rows; "
            f"set it to {tokenizer.vocab_size}, or take the tokenizer that the model was made for"
        )
