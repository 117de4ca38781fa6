"""Documents, packed into windows: running texts, code and chats, of which several share a row of tokens.

A record is {"tokens", "documents"}, int32 (max_length,): the documents of a row have the numbers 1, 2, ..., and 0 is
padding. One that is longer than a row is cut into pieces, each of which begins with the last token of the one before
it, so that every token but the first of a document is once what follows others.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepmodels import tokenizers
from deepmodels.data.sources import Source
from deepmodels.data.text import TextSource, check_numbers, make_tokenizer, read_rows, read_text
from deepmodels.errors import ConfigError, DataError
from deepmodels.tokenizers import Tokenizer

_INFILLING = ("fim_prefix", "fim_suffix", "fim_middle")
_SLACK = 8  # tokens that a text may become longer by when it is cut at other characters
_SEED = 2


def load_documents(
    split: str,
    *,
    path: str | Path,
    pattern: str = "**/*.txt",
    column: str = "text",
    tokenizer: str = "bytes",
    max_length: int = 256,
    infill_rate: float = 0.0,
    suffix_first: float = 0.5,
    test_share: float = 0.1,
) -> Source | None:
    """Returns one split of documents in packed windows: {"tokens", "documents"}, int32 (max_length,).

    A document begins and ends with what the tokenizer has for it (bos and eos, or cls and sep), if anything.

    Args:
      split: "train", "validation" or "test".
      path: a folder of files, or of the folders train, test and perhaps validation, each with files; or a .jsonl, .tsv
        or .csv file, or a folder with train.jsonl and so on, a row for each document.
      pattern: which files of a folder are documents, "**/*.py"; see `pathlib.Path.glob`. If none is in a folder named
        train, a part of them is the test split, which depends on each one's name alone.
      column: of a table: the documents'.
      tokenizer: "bytes", "characters" (those of the train split), or what `deepmodels.tokenizers.load` reads.
      max_length: tokens of a window.
      infill_rate: the share of the train split's pieces that become tasks of `fill_in_the_middle`.
      suffix_first: the share of those in which the suffix comes before the prefix.
      test_share: the share of files, or of a single table's rows, that is the test split.

    Raises:
      DataError: the files aren't there or aren't as their names say, or there is no text in them.
      ConfigError: the tokenizer can't be made or has no ids for infilling, or a number is out of range.
    """
    check_numbers(max_length, test_share)
    for name, share in {"infill_rate": infill_rate, "suffix_first": suffix_first}.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name}: expected a share from 0 to 1, got {share}")
    found = _texts(Path(path).expanduser(), pattern, column, split, test_share)
    if found is None:
        return None
    train, asked = found
    made = make_tokenizer(tokenizer, train)
    pieces = (piece for text in asked for piece in cut_document(frame(made.encode(text), made), max_length))
    if infill_rate and split == "train":
        pieces = _infilled(pieces, made, max_length, infill_rate, suffix_first)
    return packed_source([(piece, None) for piece in pieces], max_length, made, str(path))


def load_chats(
    split: str,
    *,
    path: str | Path,
    tokenizer: str,
    template: str | Path | None = None,
    max_length: int = 512,
    test_share: float = 0.1,
) -> Source | None:
    """Returns one split of chats in packed windows: {"tokens", "documents"}, int32, and "loss_mask", (max_length,).

    A chat is one document, as its template writes it. The mask is True at what the assistant says and at what ends it,
    as it would write them: each answer is encoded by itself, behind what asks for it.

    Args:
      split: "train", "validation" or "test".
      path: a .jsonl file, or a folder with train.jsonl and so on: {"messages": [{"role": ..., "content": ...}, ...]} in
        each line. Chats with more than `max_length` tokens are left out.
      tokenizer: what `deepmodels.tokenizers.load` reads.
      template: the folder or .gguf file that has the chat template, or a .jinja file; by default the tokenizer's.
      max_length: tokens of a window.
      test_share: the share of a single file's lines that is the test split.

    Raises:
      DataError: the file or folder isn't there or isn't as its name says, no chat is short enough, or the template
        writes what was said before an answer otherwise than what the answer is given.
      ConfigError: the tokenizer or the template can't be read, or a number is out of range.
    """
    check_numbers(max_length, test_share)
    path = Path(path).expanduser()
    found = read_rows(path, ("messages",), split, test_share)
    if found is None:
        return None
    _, (chats,), name = found
    made = tokenizers.load(tokenizer)
    place = Path(tokenizer if template is None else template).expanduser()
    if place.suffix == ".jinja":
        written = tokenizers.Chat(read_text(place))
    else:
        written = tokenizers.load_chat(place if place.is_dir() or place.suffix == ".gguf" else place.parent)
    pieces = [chat_tokens(chat, made, written) for chat in chats]
    pieces = [piece for piece in pieces if len(piece[0]) <= max_length and any(piece[1][1:])]
    if not pieces:
        raise DataError(f"{name}: no chat with an answer has at most max_length={max_length} tokens")
    return packed_source(pieces, max_length, made, name)


def chat_tokens(
    messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, chat: tokenizers.Chat
) -> tuple[list[int], list[bool]]:
    """Returns the ids of a chat, and which of them the assistant has to write.

    Args:
      messages: {"role": "user", "content": "What is 2+2?"} and so on.
      tokenizer: what encodes the text.
      chat: what writes it.

    Raises:
      DataError: these aren't messages, or what stands before an answer isn't what the answer is given.
      ConfigError: the template refuses them.
    """
    whole = isinstance(messages, list) and all(isinstance(m, Mapping) and "role" in m for m in messages)
    if not whole or not messages:
        raise DataError(f"messages: expected a list of objects with role and content, got {str(messages)[:80]}")
    ids: list[int] = []
    learned: list[bool] = []
    written = ""

    def write(text: str, learn: bool) -> None:
        nonlocal written
        if not text.startswith(written):
            raise DataError(
                f"the chat template writes {written[-40:]!r} otherwise once more is said: take chats of one answer each"
            )
        part = tokenizer.encode(text[len(written) :])
        ids.extend(part)
        learned.extend([learn] * len(part))
        written = text

    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            write(chat.render(messages[:number], prompt=True), False)
            write(chat.render(messages[: number + 1], prompt=False), True)
    write(chat.render(messages, prompt=False), False)
    return ids, learned


def frame(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Returns a document's ids with the tokenizer's id for its begin in front and that for its end behind.

    What it doesn't have is left out; a begin is "bos" or "cls", as pad begins nothing here.
    """
    start = next((tokenizer.special[role] for role in ("bos", "cls") if role in tokenizer.special), None)
    ends = [[] if end is None else [end] for end in (start, tokenizer.end_id)]
    return [*ends[0], *ids, *ends[1]]


def cut_document(ids: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Returns pieces, int32 of up to `size` ids, which overlap by one: see the module."""
    array = np.asarray(ids, np.int32)
    for start in range(0, max(len(array) - 1, 1), size - 1):
        yield array[start : start + size]


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Returns which pieces share a window: the longest first, each into the fullest window that it still fits.

    Best-fit decreasing, with which Ding et al. (2024), arXiv:2404.10830, pack documents so that few are cut.

    Args:
      lengths: of the pieces, each from 1 to `size`.
      size: of a window.

    Returns:
      The numbers of the pieces of each window, in ascending order, and the windows by their first piece.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    room: list[int] = []  # what is left in some window, ascending, each size once
    windows: dict[int, list[list[int]]] = {}  # those with that much left
    full: list[list[int]] = []
    for number in order.tolist():
        length = int(lengths[number])
        place = bisect_left(room, length)
        window, left = [], size
        if place < len(room):
            left = room[place]
            window = windows[left].pop()
            if not windows[left]:
                del room[place], windows[left]
        window.append(number)
        left -= length
        if not left:
            full.append(window)
        elif left in windows:
            windows[left].append(window)
        else:
            windows[left] = [window]
            insort(room, left)
    return sorted(sorted(window) for window in [*full, *(w for same in windows.values() for w in same)])


def packed_source(
    pieces: Sequence[tuple[Sequence[int], Sequence[bool] | None]], size: int, tokenizer: Tokenizer, name: str
) -> TextSource:
    """Returns pieces of up to `size` ids as packed windows.

    Args:
      pieces: ids, and which of them are to be learned or None; if one has the latter, records have a "loss_mask".
      size: of a window.
      tokenizer: what made the ids.
      name: what an error calls the source.

    Raises:
      DataError: there is no piece of two ids or more, from which alone something can be learned.
    """
    pieces = [piece for piece in pieces if len(piece[0]) > 1]
    if not pieces:
        raise DataError(f"{name}: there are no documents with text in them")
    windows = pack([len(ids) for ids, _ in pieces], size)
    tokens = np.full((len(windows), size), tokenizer.special.get("pad", 0), np.int32)
    documents = np.zeros_like(tokens)
    learned = np.zeros(tokens.shape, bool)
    for row, window in enumerate(windows):
        start = 0
        for number, i in enumerate(window, start=1):
            ids, learn = pieces[i]
            place = slice(start, start := start + len(ids))
            tokens[row, place], documents[row, place] = ids, number
            learned[row, place] = True if learn is None else learn
    arrays = {"tokens": tokens, "documents": documents}
    if any(learn is not None for _, learn in pieces):
        arrays["loss_mask"] = learned
    return TextSource(arrays, name, tokenizer=tokenizer)


def fill_in_the_middle(text: str, tokenizer: Tokenizer, first: int, second: int, *, suffix_first: bool) -> list[int]:
    """Returns a text as the task to write its middle, given what is before and after it, and the answer.

    With PRE, SUF and MID the ids that mark a part, and END what ends a text: PRE prefix SUF suffix MID middle END, or
    with the suffix first PRE SUF suffix MID prefix middle END. Bavarian et al. (2022), arXiv:2207.14255, sections 3 and
    appendix D. The parts are cut at characters, so that a model also learns to go on within a word.

    Args:
      text: the whole.
      tokenizer: with the special ids fim_prefix, fim_suffix and fim_middle, or else with three sentinels, of which the
        last three mark the parts.
      first: the character at which the middle begins.
      second: that behind the middle.
      suffix_first: see above.

    Raises:
      ConfigError: the tokenizer has no ids for the parts.
    """
    before, after, between = infilling_ids(tokenizer)
    prefix, middle, suffix = (tokenizer.encode(part) for part in (text[:first], text[first:second], text[second:]))
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    if suffix_first:
        return [before, after, *suffix, between, *prefix, *middle, *end]
    return [before, *prefix, after, *suffix, between, *middle, *end]


def infilling_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Returns the ids that mark prefix, suffix and middle of `fill_in_the_middle`.

    Raises:
      ConfigError: the tokenizer has none.
    """
    if all(role in tokenizer.special for role in _INFILLING):
        return tuple(tokenizer.special[role] for role in _INFILLING)
    if len(tokenizer.sentinels) < 3:
        raise ConfigError(
            "tokenizer: infilling needs its special ids fim_prefix, fim_suffix and fim_middle: train one with "
            "`deepmodels tokenizer train --special '<fim_prefix>' '<fim_suffix>' '<fim_middle>'`"
        )
    return tuple(tokenizer.sentinels[-3:])


def _infilled(
    pieces: Iterable[np.ndarray], tokenizer: Tokenizer, size: int, rate: float, suffix_first: float
) -> Iterator[np.ndarray]:
    """Pieces, some of them as tasks; which and where they are cut depends on each one's number alone."""
    infilling_ids(tokenizer)
    added = 3 + (tokenizer.end_id is not None)
    for number, piece in enumerate(pieces):
        chosen, order, *cuts = np.random.PCG64(np.random.SeedSequence((_SEED, number))).random_raw(4).tolist()
        if chosen >= rate * 2**64:
            yield piece
            continue
        text = tokenizer.decode(piece[: size - added - _SLACK].tolist())
        first, second = sorted(cut % (len(text) + 1) for cut in cuts)
        task = fill_in_the_middle(text, tokenizer, first, second, suffix_first=order < suffix_first * 2**64)
        yield piece if len(task) > size else np.asarray(task, np.int32)


def _texts(
    path: Path, pattern: str, column: str, split: str, test_share: float
) -> tuple[Iterable[str], Iterable[str]] | None:
    """The texts of the train split and those of `split`; None without that split."""
    tables = path.is_file() or any(path.glob("train.*"))
    if tables:
        found = read_rows(path, (column,), split, test_share)
        return None if found is None else (found[0][0], found[1][0])
    folders = {name: path / name for name in ("train", split)}
    files = {name: sorted(file for file in folder.glob(pattern) if file.is_file()) for name, folder in folders.items()}
    if not files["train"]:
        if split == "validation":
            return None
        everything = sorted(file for file in path.glob(pattern) if file.is_file())
        tested = {file for file in everything if _share(file.relative_to(path).as_posix()) < test_share}
        files = {"train": [file for file in everything if file not in tested], "test": sorted(tested)}
    for name in ("train", split):
        if not files[name]:
            if name == "validation":
                return None
            raise DataError(
                f"{path}: no files {pattern!r} for its {name} split, neither in the folder {name} nor else; give the "
                "folder with --config.data.path="
            )
    return _Read(files["train"]), _Read(files[split])


class _Read:
    """The texts of files, read anew each time they are gone through."""

    def __init__(self, files: Sequence[Path]):
        self._files = files

    def __iter__(self) -> Iterator[str]:
        return map(read_text, self._files)


def _share(name: str) -> float:
    """A number from 0 to 1 that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
