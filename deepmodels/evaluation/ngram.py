"""Language models of counted n-grams, which a trained one has to beat. W words of the vocabulary."""

from collections.abc import Iterable, Sequence

import numpy as np

from deepmodels.errors import ConfigError


class NGram:
    """An interpolated n-gram model with Kneser-Ney's discounts.

    p(w | h) = max(c(hw) - D, 0) / c(h) + D N(h) / c(h) p(w | h without its first word), down to words alone, which are
    interpolated with 1 / W; c are counts in the longest n-grams and, in shorter ones, numbers of different words before
    them; N(h) is the number of different words behind h; D is n1 / (n1 + 2 n2), of n-grams that occur once and twice.
    Kneser & Ney (1995), doi:10.1109/ICASSP.1995.479394; Chen & Goodman (1998), Harvard TR-10-98, section 4.1.6.

    Args:
      documents: integers (T,) each, of which no n-gram spans two.
      vocab_size: W.
      order: n, 3 for trigrams.

    Raises:
      ConfigError: n isn't positive, or so many different n-grams can't be numbered.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocab_size: int, order: int = 3):
        if order < 1 or (vocab_size + 1) ** order >= 2**63:
            raise ConfigError(f"order: expected from 1 on, and (vocab_size + 1) ** order below 2 ** 63, got {order}")
        self.vocab_size, self.order = vocab_size, order
        self._base = vocab_size + 1  # the last one stands for what is before a document
        numbers = np.concatenate([self._numbers(document, order) for document in documents])
        grams, counts = np.unique(numbers, return_counts=True)
        self._tables = []  # by the length of the n-gram, from order to 1
        for length in range(order, 0, -1):
            self._tables.append(_Table(grams, counts, self._base))
            # different n-grams with the same end: what is counted is how many words the end has before it
            grams, counts = np.unique(grams % self._base ** (length - 1), return_counts=True)

    def log_probabilities(self, document: Sequence[int]) -> np.ndarray:
        """Returns the logarithm of each word's probability given those before it in the document, float64 (T,)."""
        probability = np.full(len(document), 1 / self.vocab_size)
        for length, table in zip(range(1, self.order + 1), reversed(self._tables), strict=True):
            probability = table.interpolate(self._numbers(document, length), self._base, probability)
        return np.log(probability)

    def perplexity(self, documents: Iterable[Sequence[int]]) -> tuple[float, int]:
        """Returns the perplexity per word, and of how many: all but the first word of each document."""
        scores = np.concatenate([self.log_probabilities(document)[1:] for document in documents])
        return float(np.exp(-scores.mean())), len(scores)

    def _numbers(self, document: Sequence[int], length: int) -> np.ndarray:
        """The n-gram that ends in each word, as a number."""
        words = np.concatenate([np.full(length - 1, self.vocab_size), np.asarray(document, np.int64)])
        return np.lib.stride_tricks.sliding_window_view(words, length) @ self._base ** np.arange(length)[::-1]


class _Table:
    """The n-grams of one length."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, base: int):
        self.grams, self.counts = grams, counts
        self.contexts, starts = np.unique(grams // base, return_index=True)
        self.totals = np.add.reduceat(counts, starts)
        self.types = np.diff(np.append(starts, len(grams)))
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = once / max(once + 2 * twice, 1)

    def interpolate(self, numbers: np.ndarray, base: int, shorter: np.ndarray) -> np.ndarray:
        counts = _find(self.grams, self.counts, numbers)
        totals = _find(self.contexts, self.totals, numbers // base)
        types = _find(self.contexts, self.types, numbers // base)
        own = np.maximum(counts - self.discount, 0) + self.discount * types * shorter
        return np.where(totals > 0, own / np.maximum(totals, 1), shorter)


def _find(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key asked for, 0 where there is none."""
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, values[places], 0)
