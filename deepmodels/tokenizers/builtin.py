"""Tokenizers that need no file and no other package: bytes, characters, and words between spaces."""

from collections.abc import Iterable, Sequence

from deepmodels.errors import ConfigError
from deepmodels.tokenizers.tokenizer import Tokenizer

# One id begins a text, be it called bos or cls, and one ends it, as RoBERTa's do.
_SPECIAL = {"pad": 0, "bos": 1, "cls": 1, "eos": 2, "sep": 2, "mask": 3}
_FIRST_BYTE = 4
_NEVER = (0xC0, 0xC1, *range(0xF5, 0x100))  # bytes that no text in UTF-8 has


class Bytes(Tokenizer):
    """The bytes of a text in UTF-8, each 4 above its value; below are pad, begin, end and mask.

    Its sentinels are the thirteen bytes that UTF-8 never has. Bytes that aren't UTF-8 decode to U+FFFD. After ByT5, Xue
    et al. (2021), arXiv:2105.13626.
    """

    special = _SPECIAL
    vocab_size = _FIRST_BYTE + 256
    sentinels = tuple(_FIRST_BYTE + byte for byte in _NEVER)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        return [_FIRST_BYTE + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out."""
        return bytes(int(i) - _FIRST_BYTE for i in ids if _FIRST_BYTE <= i < self.vocab_size).decode(errors="replace")


class _Symbols(Tokenizer):
    """A table of symbols, sorted, after the special ids; what isn't in it is unknown."""

    special = _SPECIAL | {"unk": 4}
    _separator = ""

    def __init__(self, symbols: Iterable[str]):
        self.symbols = tuple(sorted(set(symbols)))
        if not self.symbols:
            raise ConfigError("symbols: a vocabulary needs at least one")
        first = 1 + max(self.special.values())
        self._ids = {symbol: first + i for i, symbol in enumerate(self.symbols)}
        self._texts = {i: symbol for symbol, i in self._ids.items()} | {
            self.special["unk"]: "\N{REPLACEMENT CHARACTER}"
        }
        self.vocab_size = first + len(self.symbols)

    def _split(self, text: str) -> Sequence[str]:
        return text

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        unknown = self.special["unk"]
        return [self._ids.get(symbol, unknown) for symbol in self._split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out, but the unknown one is U+FFFD."""
        return self._separator.join(self._texts[int(i)] for i in ids if int(i) in self._texts)


class Characters(_Symbols):
    """Unicode characters.

    Args:
      symbols: those it knows: `Characters("abc ")`.

    Raises:
      ConfigError: there are none.
    """

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """Returns a tokenizer that knows every character of some texts."""
        return cls(set().union(*map(set, texts)))


class Words(_Symbols):
    """What stands between spaces: words, or phonemes as "HH AH0 L OW1".

    Args:
      symbols: those it knows.

    Raises:
      ConfigError: there are none.
    """

    _separator = " "

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Words":
        """Returns a tokenizer that knows every word of some texts."""
        return cls(set().union(*(text.split() for text in texts)))

    def _split(self, text: str) -> Sequence[str]:
        return text.split()
