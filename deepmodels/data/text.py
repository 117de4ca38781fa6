"""Data sets of text: running text, pairs of texts, and texts with a label, in memory as ids of a tokenizer.

A file is .txt, or .tsv, .csv or .jsonl with named columns, each also with .gz, in UTF-8. Of a folder a split is the
file train, validation or test; of a single file a fixed part is the test split: the end of running text, and rows
drawn once for all of any other.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deepmodels import tokenizers
from deepmodels.data.sources import ArraySource, Source, permutation
from deepmodels.errors import ConfigError, DataError, nearest
from deepmodels.tokenizers import Tokenizer

EMBEDDED = Path(__file__).parent / "embedded"
_TABLES = (".tsv", ".csv", ".jsonl")
_SPLIT_SEED = 1


class TextSource(ArraySource):
    """Texts as ids, in memory.

    Args:
      arrays: see ArraySource.
      name: what an error calls this source.
      tokenizer: what made "tokens".
      target_tokenizer: what made "targets", where it is another.
      lengths: how many positions each record fills, for buckets.
      class_names: what the labels stand for.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        name: str,
        *,
        tokenizer: Tokenizer,
        target_tokenizer: Tokenizer | None = None,
        lengths: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(arrays, name)
        self.tokenizer, self.target_tokenizer = tokenizer, target_tokenizer or tokenizer
        self.lengths, self.class_names = lengths, class_names


def load_text(
    split: str,
    *,
    path: str | Path,
    tokenizer: str = "bytes",
    max_length: int = 256,
    sentence_pairs: bool = False,
    test_share: float = 0.1,
) -> Source | None:
    """Returns one split of running text, in windows of `max_length` tokens: {"tokens": int32 (max_length,)}.

    Args:
      split: "train", "validation" or "test".
      path: a .txt file, whose end is the test split, or a folder with train.txt, test.txt and perhaps validation.txt.
      tokenizer: "bytes", "characters" (those of the train split), or what `deepmodels.tokenizers.load` reads.
      max_length: tokens of a record.
      sentence_pairs: gives records for next-sentence prediction instead: the first half of a window, and either the
        second half of it or that of another; {"tokens", "segments", "label"}, where label 1 is the other's. Devlin et
        al. (2018), arXiv:1810.04805, section 3.1.
      test_share: the share of a single file that is the test split.

    Raises:
      DataError: the file or folder isn't there, isn't UTF-8, or holds too little text.
      ConfigError: the tokenizer can't be made or has no ids for the ends of sentences, or a number is out of range.
    """
    check_numbers(max_length, test_share)
    found = _files(path, (".txt",), split)
    if found is None:
        return None
    train, asked = (read_text(file) for file in found)
    if Path(path).expanduser().is_file():
        border = round(len(train) * (1 - test_share))
        if split == "validation":
            return None
        train, asked = train[:border], (train[:border] if split == "train" else train[border:])
    made = make_tokenizer(tokenizer, [train])
    ids = np.asarray(made.encode(asked), np.int32)
    make = _sentence_pairs if sentence_pairs else _windows
    return TextSource(make(ids, max_length, made, str(found[1])), str(found[1]), tokenizer=made)


def load_text_pairs(
    split: str,
    *,
    path: str | Path,
    columns: Sequence[str] = ("source", "target"),
    tokenizer: str = "bytes",
    target_tokenizer: str | None = None,
    max_length: int = 128,
    test_share: float = 0.1,
) -> Source | None:
    """Returns one split of pairs of texts: {"tokens", "mask", "targets", "target_mask"}, each (max_length,).

    Tokens are the source as the tokenizer frames it. Targets begin with an id to start from (bos, cls or pad, whichever
    there is first) and end with eos or sep. Pairs with more ids than `max_length` on a side are left out.

    Args:
      split: "train", "validation" or "test".
      path: a .tsv, .csv or .jsonl file, or a folder with train.tsv and so on.
      columns: the names of the column of the sources and of that of the targets.
      tokenizer: "bytes", "characters" or "words" (those of the train split), or what `deepmodels.tokenizers.load`
        reads.
      target_tokenizer: likewise, of the targets; by default one tokenizer serves both.
      max_length: positions of a record's arrays.
      test_share: the share of a single file's rows that is the test split.

    Raises:
      DataError: the file or folder isn't there or isn't as its name says, or no pair is short enough.
      ConfigError: a tokenizer can't be made or has no ids for the ends of targets, or a number is out of range.
    """
    check_numbers(max_length, test_share)
    found = read_rows(path, columns, split, test_share)
    if found is None:
        return None
    (train_sources, train_targets), (sources, targets), name = found
    if target_tokenizer is None:
        ours = theirs = make_tokenizer(tokenizer, [*train_sources, *train_targets])
    else:
        ours, theirs = make_tokenizer(tokenizer, train_sources), make_tokenizer(target_tokenizer, train_targets)
    if theirs.start_id is None or theirs.end_id is None:
        raise ConfigError(f"tokenizer: targets need ids to start from and to end with; it has {dict(theirs.special)}")
    ends = theirs.start_id, theirs.end_id
    rows = [(ours.frame(s)[0], [ends[0], *theirs.encode(t), ends[1]]) for s, t in zip(sources, targets, strict=True)]
    rows = [row for row in rows if max(map(len, row)) <= max_length]
    if not rows:
        raise DataError(f"{name}: no pair of its split {split!r} fits into max_length={max_length} ids a side")
    tokens, mask = tokenizers.pad([row[0] for row in rows], ours.special.get("pad", 0), max_length)
    target_ids, target_mask = tokenizers.pad([row[1] for row in rows], theirs.special.get("pad", 0), max_length)
    arrays = {"tokens": tokens, "mask": mask, "targets": target_ids, "target_mask": target_mask}
    lengths = np.maximum(mask.sum(1), target_mask.sum(1))
    return TextSource(arrays, name, tokenizer=ours, target_tokenizer=theirs, lengths=lengths)


def load_text_classification(
    split: str,
    *,
    path: str | Path,
    columns: Sequence[str] = ("text", "label"),
    tokenizer: str = "bytes",
    max_length: int = 128,
    test_share: float = 0.1,
) -> Source | None:
    """Returns one split of texts with a label: {"tokens", "mask", "label"}, and "segments" where a text has a second.

    Args:
      split: "train", "validation" or "test".
      path: a .tsv, .csv or .jsonl file, or a folder with train.tsv and so on.
      columns: the names of the columns: of the text and the label, or of the text, a second text and the label. What
        the label column holds are the names of the classes, in sorted order; numbers are sorted as numbers.
      tokenizer: "bytes", "characters" or "words" (those of the train split), or what `deepmodels.tokenizers.load`
        reads.
      max_length: positions of a record; longer texts are cut.
      test_share: the share of a single file's rows that is the test split.

    Raises:
      DataError: the file or folder isn't there or isn't as its name says, or a class isn't in the train split.
      ConfigError: the tokenizer can't be made, or a number is out of range.
    """
    check_numbers(max_length, test_share)
    if len(columns) not in (2, 3):
        raise ConfigError(f"columns: expected those of text and label, or of two texts and a label, got {columns}")
    found = read_rows(path, columns, split, test_share)
    if found is None:
        return None
    (*train_texts, train_labels), (*texts, labels), name = found
    made = make_tokenizer(tokenizer, [text for column in train_texts for text in column])
    classes = sorted(set(train_labels), key=lambda label: (int(label), "") if label.isdecimal() else (0, label))
    if strange := sorted(set(labels) - set(classes)):
        raise DataError(f"{name}: {strange[0]!r} isn't a label of the train split: {nearest(strange[0], classes)}")
    encoded = tokenizers.encode_batch(made, *texts, max_length=max_length, width=max_length)
    numbers = {label: number for number, label in enumerate(classes)}
    arrays = {"tokens": encoded.tokens, "mask": encoded.mask}
    if len(texts) == 2:
        arrays["segments"] = encoded.segments
    arrays["label"] = np.array([numbers[label] for label in labels], np.int32)
    lengths = encoded.mask.sum(1)
    return TextSource(arrays, name, tokenizer=made, lengths=lengths, class_names=tuple(classes))


def load_state_of_the_union(
    split: str,
    *,
    path: str | Path = EMBEDDED / "state_of_the_union.txt.gz",
    tokenizer: str = "bytes",
    max_length: int = 256,
    sentence_pairs: bool = False,
) -> Source | None:
    """Returns one split of State of the Union addresses; by default of the million characters in this package.

    Those are of 1994 to 2021, the last tenth is the test split. See `load_text`.
    """
    options = dict(tokenizer=tokenizer, max_length=max_length, sentence_pairs=sentence_pairs)
    return load_text(split, path=path, **options)


def load_english_spanish(
    split: str,
    *,
    path: str | Path = EMBEDDED / "english_spanish.tsv.gz",
    tokenizer: str = "bytes",
    max_length: int = 256,
) -> Source | None:
    """Returns one split of Bible verses in English and Spanish; by default of the 3,000 in this package.

    The columns are "english" and "spanish"; one tokenizer serves both. See `load_text_pairs`.
    """
    columns = ("english", "spanish")
    return load_text_pairs(split, path=path, columns=columns, tokenizer=tokenizer, max_length=max_length)


def load_cmudict(split: str, *, path: str | Path = EMBEDDED / "cmudict.tsv.gz", max_length: int = 20) -> Source | None:
    """Returns one split of words and their phonemes; by default of the 10,000 words in this package.

    The columns are "word", in characters, and "phonemes", with spaces between them, which are the other vocabulary. See
    `load_text_pairs`.
    """
    options = dict(tokenizer="characters", target_tokenizer="words", max_length=max_length)
    return load_text_pairs(split, path=path, columns=("word", "phonemes"), **options)


def check_numbers(max_length: int, test_share: float) -> None:
    """Raises ConfigError if a record's length or the share of the test split isn't one."""
    if max_length < 2:
        raise ConfigError(f"max_length: expected 2 or more, got {max_length}")
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share: expected a share between 0 and 1, got {test_share}")


def _files(path: str | Path, suffixes: Iterable[str], split: str) -> tuple[Path, Path] | None:
    """The files of the train split and of `split`: one file twice, where there is but one; None without the split."""
    path = Path(path).expanduser()
    if path.is_file():
        return path, path
    endings = [suffix + packed for suffix in suffixes for packed in ("", ".gz")]

    def find(name: str) -> Path | None:
        return next((path / (name + ending) for ending in endings if (path / (name + ending)).is_file()), None)

    train = find("train")
    if train is None:
        raise DataError(
            f"{path}: expected a file, or a folder with train{endings[0]} (or {', '.join(endings[1:])}) and the test "
            "split beside it; give it with --config.data.path="
        )
    asked = find(split)
    return None if asked is None else (train, asked)


def read_rows(
    path: str | Path, columns: Sequence[str], split: str, test_share: float
) -> tuple[list[list[str]], list[list[str]], str] | None:
    """Returns the columns of the train split and of `split`, and the name of the second one's file.

    None if there is no such split. Raises DataError if a file isn't there or isn't as its name says.
    """
    found = _files(path, _TABLES, split)
    if found is None:
        return None
    train, asked = (_table(file, columns) for file in found)
    if Path(path).expanduser().is_file():
        if split == "validation":
            return None
        count = len(train[0])
        if count < 2:
            raise DataError(f"{found[0]}: expected rows for a train and a test split, found {count}")
        size = min(max(round(count * test_share), 1), count - 1)
        order = permutation(count, _SPLIT_SEED)
        kept, tested = np.sort(order[size:]), np.sort(order[:size])
        train, asked = ([[column[i] for i in part] for column in train] for part in (kept, tested))
        asked = train if split == "train" else asked
    return train, asked, str(found[1])


def read_text(path: Path) -> str:
    """Returns a file's text, unpacked if it is a .gz; raises DataError if it isn't one in UTF-8."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not readable as text in UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable as text in UTF-8: {error}") from error


def _table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The named columns of a file, as text."""
    text, suffix = read_text(path), Path(path.name.removesuffix(".gz")).suffix
    if suffix not in _TABLES:
        raise DataError(f"{path}: expected a name that ends in {', '.join(_TABLES)}, or in one of these and .gz")
    where = ""
    try:
        if suffix == ".jsonl":
            rows = []
            for number, line in enumerate(text.split("\n"), start=1):
                where = f", line {number}"
                if line.strip():
                    rows.append(json.loads(line))
        elif suffix == ".tsv":
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}{where}: not readable as {suffix}: {error}") from error
    for number, row in enumerate(rows, start=1):
        for column in columns:
            if not isinstance(row, dict) or row.get(column) is None:
                known = [key for key in row if isinstance(key, str)] if isinstance(row, dict) else []
                raise DataError(f"{path}: row {number} has no column {column!r}: {nearest(column, known)}")
    return [[value if isinstance(value := row[column], list) else str(value) for row in rows] for column in columns]


def make_tokenizer(name: str, texts: Iterable[str]) -> Tokenizer:
    """Returns a tokenizer by its name, or from a file; "characters" and "words" know those of some texts."""
    made = {"characters": tokenizers.Characters, "words": tokenizers.Words}.get(name)
    return tokenizers.load(name) if made is None else made.of(texts)


def _windows(ids: np.ndarray, length: int, tokenizer: Tokenizer, name: str) -> dict[str, np.ndarray]:
    count = len(ids) // length
    if not count:
        raise DataError(f"{name}: {len(ids):,} tokens don't fill a window of max_length={length}")
    return {"tokens": ids[: count * length].reshape(count, length)}


def _sentence_pairs(ids: np.ndarray, length: int, tokenizer: Tokenizer, name: str) -> dict[str, np.ndarray]:
    missing = [role for role in ("cls", "sep") if role not in tokenizer.special]
    if missing:
        raise ConfigError(f"tokenizer: pairs of sentences need its special ids cls and sep, it has no {missing[0]}")
    if length < 5:
        raise ConfigError(f"max_length: a pair of sentences needs 5 ids or more, got {length}")
    windows = _windows(ids, length - 3, tokenizer, name)["tokens"]
    count, half = len(windows), (length - 3) // 2
    if count < 2:
        raise DataError(f"{name}: pairs of sentences need two windows of max_length={length} or more")
    # Half of the windows get another's second half, and hand on their own, so that each half is used once.
    order = permutation(count, _SPLIT_SEED)
    moved = order[: max(count // 2, 2)]
    second = np.arange(count)
    second[moved] = np.roll(moved, 1)
    label = np.zeros(count, np.int32)
    label[moved] = 1
    cls, sep = (np.full((count, 1), tokenizer.special[role], np.int32) for role in ("cls", "sep"))
    tokens = np.concatenate([cls, windows[:, :half], sep, windows[second, half:], sep], axis=1)
    segments = np.broadcast_to(np.arange(length) > half + 1, tokens.shape).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "label": label}
