"""Tokenizers from files: tokenizer.json, vocab.txt, vocab.json with merges.txt, sentencepiece's and tiktoken's."""

import base64
import binascii
import gzip
import importlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from deepmodels import gguf_header
from deepmodels.errors import ConfigError, WeightsError, nearest
from deepmodels.tokenizers.builtin import Bytes
from deepmodels.tokenizers.chat import Chat
from deepmodels.tokenizers.tokenizer import ROLES, Tokenizer, cut

_NAMES = {  # what files call the special tokens, where nothing beside them says which is which
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "bos": ("<s>", "[BOS]", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "[EOS]", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "fim_prefix": ("<fim_prefix>", "<|fim_prefix|>"),
    "fim_suffix": ("<fim_suffix>", "<|fim_suffix|>"),
    "fim_middle": ("<fim_middle>", "<|fim_middle|>"),
}
_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"""
    r"""|\s+(?!\S)|\s"""
)
# A file of tiktoken doesn't say how text is cut before merging; the number of its ranks tells which file it is.
_PATTERNS = {50_256: _GPT2, 50_257: _GPT2, 100_256: _CL100K}


def load(path: str | os.PathLike, *, pattern: str | None = None) -> Tokenizer:
    """Returns a tokenizer by its name or from a file or folder.

    Args:
      path: "bytes"; a tokenizer.json; a vocab.txt (BERT's WordPiece: it is lower-cased if tokenizer_config.json beside
        it says so, or else if no entry has a capital); a vocab.json with merges.txt beside it (byte-level BPE: GPT-2's,
        RoBERTa's or CLIP's); a `.model` of sentencepiece; a `.tiktoken`; or a folder with one of these; or
        bpe_simple_vocab_16e6.txt.gz, the merges of CLIP as its authors and open_clip have them.
      pattern: of a `.tiktoken` alone: the regular expression that cuts text before merging, where the file isn't one of
        GPT-2's, Whisper's or cl100k's.

    Raises:
      ConfigError: there is no such file, it isn't what its name says, or the package that reads it is missing.
    """
    if os.fspath(path) == "bytes":
        return Bytes()
    if os.fspath(path) == "characters":
        raise ConfigError("tokenizer 'characters' is made from texts: deepmodels.tokenizers.Characters.of(texts)")
    path = Path(path).expanduser()
    if path.is_dir():
        path = _find(path)
    if not path.is_file():
        raise ConfigError(f"tokenizer {str(path)!r}: no such file, and not a name: {nearest(str(path), _BUILT_IN)}")
    if path.suffix == ".tiktoken":
        return Tiktoken(path, pattern)
    if path.suffix == ".model":
        return SentencePiece(path)
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".gz":
        return _clip_merges(path)
    if path.name in ("vocab.json", "merges.txt"):
        return _byte_level(path.parent)
    if path.suffix == ".txt":
        return _word_piece(path)
    return _tokenizer_json(path)


_BUILT_IN = ("bytes", "characters")
_KNOWN = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")


def _find(folder: Path) -> Path:
    found = [path for pattern in _KNOWN for path in sorted(folder.glob(pattern))]
    if not found:
        raise ConfigError(f"{folder}: expected one of {', '.join(_KNOWN)} in it, found none")
    return found[0]


def library(name: str) -> ModuleType:
    """Returns a package of the extra `text`.

    Raises:
      ConfigError: it isn't installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"the package {name!r} is missing: pip install 'deepmodels-jax[text]'") from error


class LibraryTokenizer(Tokenizer):
    """A tokenizer of the package `tokenizers`; its own cutting and padding are switched off.

    Args:
      inner: the package's `Tokenizer`.
      folder: where it came from; special_tokens_map.json or tokenizer_config.json there say what its special ids are
        for, otherwise their names do.
    """

    def __init__(self, inner: Any, folder: Path | None = None):
        inner.no_truncation()
        inner.no_padding()
        self.inner = inner
        vocabulary = inner.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        self.special = _special(vocabulary, {} if folder is None else _said(folder))
        self._is_clip = _is_clip(vocabulary)
        if self._is_clip:
            self.special.setdefault("pad", self.special["eos"])
        self.sentinels = _sentinels(vocabulary)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out."""
        text = self.inner.decode([int(i) for i in ids], skip_special_tokens=True)
        return text.replace("</w>", " ").strip() if self._is_clip else text

    def frame(
        self, text: str, pair: str | None = None, *, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Returns ids with the special ones that the file itself asks for, and the segment of each; see Tokenizer."""
        first = self.inner.encode(text, add_special_tokens=False)
        second = None if pair is None else self.inner.encode(pair, add_special_tokens=False)
        added = self.inner.num_special_tokens_to_add(second is not None)
        keep, keep_second = cut(len(first), len(second or ()), added, max_length)
        first.truncate(keep)
        if second is not None:
            second.truncate(keep_second)
        whole = self.inner.post_process(first, second)
        return whole.ids, whole.type_ids

    def save(self, folder: str | os.PathLike, chat: Chat | None = None, *, max_length: int | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as transformers loads them.

        Args:
          folder: an existing one.
          chat: a template that is written beside them.
          max_length: of a text, where the model has one that transformers cuts at.

        Raises:
          ConfigError: the folder can't be written to.
        """
        said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        said |= {f"{role}_token": self.inner.id_to_token(number) for role, number in self.special.items()}
        if chat is not None:
            said["chat_template"] = chat.template
        if max_length is not None:
            said["model_max_length"] = max_length
        try:
            self.inner.save(os.fspath(Path(folder) / "tokenizer.json"))
            text = json.dumps(said, indent=2, ensure_ascii=False)
            (Path(folder) / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        except Exception as error:  # the library's Rust raises no narrower class
            raise ConfigError(f"{folder} can't be written to: {error}") from error


class SentencePiece(Tokenizer):
    """A model of sentencepiece: T5's and LLaMA's, among others; a text is framed by the ends the model has.

    Args:
      path: the `.model` file.

    Raises:
      ConfigError: it isn't one.
    """

    def __init__(self, path: str | os.PathLike):
        sentencepiece = library("sentencepiece")
        self.inner = sentencepiece.SentencePieceProcessor()
        try:
            self.inner.LoadFromSerializedProto(Path(path).read_bytes())
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"{path}: expected a model of sentencepiece: {error}") from error
        self.vocab_size = self.inner.vocab_size()
        vocabulary = {self.inner.id_to_piece(i): i for i in range(self.vocab_size)}
        ids = {role: getattr(self.inner, f"{role}_id")() for role in ("pad", "bos", "eos", "unk")}
        self.special = _special(vocabulary, {}) | {role: i for role, i in ids.items() if i >= 0}
        for role, end in (("cls", "bos"), ("sep", "eos")):
            if end in self.special:
                self.special.setdefault(role, self.special[end])
        self.sentinels = _sentinels(vocabulary)
        self._hidden = {*self.special.values()} - {self.special.get("unk")}

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        return self.inner.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out."""
        return self.inner.decode([int(i) for i in ids if int(i) not in self._hidden])


class Tiktoken(Tokenizer):
    """Ranks of tiktoken, with one special token after them, which ends a text: <|endoftext|>.

    Args:
      path: the `.tiktoken` file: lines of a token in base64 and its rank.
      pattern: see `load`.

    Raises:
      ConfigError: it isn't such a file, or needs a pattern.
    """

    def __init__(self, path: str | os.PathLike, pattern: str | None = None):
        try:
            rows = [line.split() for line in Path(path).read_bytes().splitlines() if line.strip()]
            ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
        except (ValueError, binascii.Error) as error:
            raise ConfigError(f"{path}: expected lines of a token in base64 and its rank, as tiktoken's are") from error
        pattern = pattern or _PATTERNS.get(len(ranks))
        if pattern is None:
            raise ConfigError(f"{path}: {len(ranks):,} ranks are of no file known here: give its pattern=")
        end = 1 + max(ranks.values())
        self.special = {"bos": end, "eos": end}
        self.vocab_size = end + 1
        tiktoken = library("tiktoken")
        special = {"<|endoftext|>": end}
        try:
            self.inner = tiktoken.Encoding(
                Path(path).stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
            )
            self.inner.encode_ordinary("a b")
        except Exception as error:  # its Rust raises no narrower class
            raise ConfigError(f"{path}: tiktoken can't use it: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, nothing added."""
        return self.inner.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids; special ones are left out."""
        return self.inner.decode([int(i) for i in ids if i != self.special["eos"]])


def train_bpe(
    files: Iterable[str | os.PathLike], vocab_size: int, out: str | os.PathLike, *, special: Sequence[str] = ()
) -> LibraryTokenizer:
    """Trains a byte-level BPE on text files, writes it as tokenizer.json, and returns it.

    Its first ids are <pad>, <s>, </s>, <unk> and <mask>; a text is framed by <s> and </s>. Any text can be encoded, and
    decodes to itself. Sennrich, Haddow & Birch (2015), arXiv:1508.07909; on bytes: Radford et al. (2019).

    Args:
      files: in UTF-8.
      vocab_size: ids in all, or fewer where the text has no more to merge; 5 special ones and 256 bytes are the least.
      out: the file to write.
      special: more tokens that stand for themselves, behind the five: "<fim_prefix>", "<|im_start|>".

    Raises:
      ConfigError: a file is missing or isn't UTF-8, or the vocabulary is too small.
    """
    tokenizers = library("tokenizers")
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", *special]
    if vocab_size < 256 + len(special):
        least = 256 + len(special)
        raise ConfigError(f"vocab_size: expected at least {least}, the bytes and {len(special)} special ids")
    texts = [_text(Path(file).expanduser()) for file in files]
    if not any(texts):
        raise ConfigError("files: there is no text in them")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (line for text in texts for line in text.splitlines(keepends=True))
    inner.train_from_iterator(lines, trainer)
    inner.post_processor = _between(tokenizers, inner, "<s>", "</s>")
    inner.save(os.fspath(Path(out).expanduser()))
    return LibraryTokenizer(inner)


def _tokenizer_json(path: Path) -> LibraryTokenizer:
    tokenizers = library("tokenizers")
    return _open(path, "a tokenizer.json", lambda: tokenizers.Tokenizer.from_file(str(path)))


def _word_piece(path: Path) -> LibraryTokenizer:
    tokenizers = library("tokenizers")
    entries = _text(path).splitlines()
    for needed in ("[UNK]", "[CLS]", "[SEP]"):
        if needed not in entries:
            raise ConfigError(f"{path}: expected a vocabulary of WordPiece, one entry a line; it has no {needed}")
    plain = (entry for entry in entries if not re.fullmatch(r"\[.*\]", entry))
    lowercase = _said(path.parent).get("do_lower_case", not any(entry.lower() != entry for entry in plain))

    def make() -> Any:
        ids = {entry: number for number, entry in enumerate(entries)}
        inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
        inner.add_special_tokens([name for names in _NAMES.values() for name in names if name in ids])
        inner.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
        inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        inner.decoder = tokenizers.decoders.WordPiece()
        ends = [(name, ids[name]) for name in ("[SEP]", "[CLS]")]
        inner.post_processor = tokenizers.processors.BertProcessing(*ends)
        return inner

    return _open(path, "a vocabulary of WordPiece", make)


def _byte_level(folder: Path) -> LibraryTokenizer:
    tokenizers = library("tokenizers")
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: expected vocab.json and merges.txt, there is no {name}")

    def make() -> Any:
        vocabulary, merges = tokenizers.models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        if _is_clip(vocabulary):
            return _clip(tokenizers, vocabulary, merges)
        inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        ids = inner.get_vocab()
        inner.add_special_tokens([name for names in _NAMES.values() for name in names if name in ids])
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        if {"<s>", "</s>"} <= ids.keys():  # RoBERTa's; GPT-2's has no frame
            ends = [(name, ids[name]) for name in ("</s>", "<s>")]
            inner.post_processor = tokenizers.processors.RobertaProcessing(*ends, add_prefix_space=False)
        return inner

    return _open(folder / "vocab.json", "a vocabulary of byte-level BPE", make)


_CLIP_ENDS = ("<|startoftext|>", "<|endoftext|>")
_CLIP_CUT = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_CLIP_MERGES = 49_152 - 256 - 2  # of those in the file, which has more


def _is_clip(vocabulary: Mapping[str, int]) -> bool:
    return "a</w>" in vocabulary and all(end in vocabulary for end in _CLIP_ENDS)


def _clip(tokenizers: ModuleType, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Any:
    """CLIP's BPE: of lower-cased text, whose words end in "</w>". Section 2.4 of Radford et al. (2021)."""
    start, end = _CLIP_ENDS
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(dict(vocabulary), list(merges), unk_token=end, end_of_word_suffix="</w>")
    )
    inner.add_special_tokens(list(_CLIP_ENDS))
    normalizers, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre.Split(tokenizers.Regex(_CLIP_CUT), "removed", invert=True)
    inner.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = tokenizers.decoders.ByteLevel()
    ends = [(name, vocabulary[name]) for name in (end, start)]
    inner.post_processor = tokenizers.processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return inner


def _clip_merges(path: Path) -> LibraryTokenizer:
    """CLIP's tokenizer of the file that its authors have: merges alone, of which the vocabulary follows."""
    tokenizers = library("tokenizers")
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 1 + _CLIP_MERGES]
        merges = [(first, second) for first, second in (line.split() for line in lines)]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path}: expected the merges of CLIP, gzipped, two tokens a line: {error}") from error
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges), *_CLIP_ENDS]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return _open(path, "the merges of CLIP", lambda: _clip(tokenizers, vocabulary, merges))


_LLAMA3 = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    r"""|\s+(?!\S)|\s+"""
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_CUTS = ("default", "gpt-2", "smollm", "llama-bpe", "llama3", "qwen2")  # llama.cpp's names of how text is cut
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens there


def _gguf(path: Path) -> LibraryTokenizer:
    """The tokenizer of a file of llama.cpp."""
    tokenizers = library("tokenizers")
    try:
        said = gguf_header.read(path).metadata
    except WeightsError as error:
        raise ConfigError(f"tokenizer: {error}") from error
    model, entries = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.tokens")
    makers = {"gpt2": _gguf_bytes, "llama": _gguf_pieces}
    if model not in makers or not isinstance(entries, list):
        raise ConfigError(f"{path}: its tokenizer is {model!r}, but only {' and '.join(makers)} are known")
    kinds = said.get("tokenizer.ggml.token_type") or []

    def make() -> Any:
        inner = makers[model](tokenizers, said, {entry: number for number, entry in enumerate(entries)})
        chosen = {kind: [t for t, k in zip(entries, kinds, strict=False) if k == kind] for kind in (3, 4)}
        inner.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in chosen[_CONTROL]])
        inner.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in chosen[_USER_DEFINED]])
        return inner

    tokenizer = _open(path, "a tokenizer of llama.cpp", make)
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    found = {role: said.get(f"tokenizer.ggml.{name}_token_id") for name, role in names.items()}
    tokenizer.special |= {role: number for role, number in found.items() if type(number) is int}
    ends = {"bos": said.get("tokenizer.ggml.add_bos_token", model == "llama")}
    ends["eos"] = said.get("tokenizer.ggml.add_eos_token", False)
    added = {role: tokenizer.special[role] for role, add in ends.items() if add and role in tokenizer.special}
    if any(number >= len(entries) for number in tokenizer.special.values()):
        raise ConfigError(f"{path}: a special token is none of its {len(entries):,}")
    if added:
        bos, eos = (f"{entries[added[role]]} " if role in added else "" for role in ("bos", "eos"))
        tokenizer.inner.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos}$A {eos}".strip(),
            pair=f"{bos}$A {eos}{bos and bos.strip() + ':1 '}$B:1 {eos and eos.strip() + ':1'}".strip(),
            special_tokens=[(entries[number], number) for number in added.values()],
        )
    return tokenizer


def _gguf_bytes(tokenizers: ModuleType, said: Mapping[str, Any], vocabulary: dict[str, int]) -> Any:
    """Byte-level BPE, GPT-2's and all that follow it."""
    cut = said.get("tokenizer.ggml.pre", "default")
    if cut not in _CUTS:
        raise ValueError(f"its way to cut text is {cut!r}, but only {', '.join(_CUTS)} are known")
    merges = [tuple(merge.split(" ", 1)) for merge in said["tokenizer.ggml.merges"]]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut in ("llama-bpe", "llama3"))
    )
    pre = tokenizers.pre_tokenizers
    if cut in ("default", "gpt-2", "smollm"):
        digits = [pre.Digits(individual_digits=True)] if cut == "smollm" else []
        inner.pre_tokenizer = pre.Sequence([*digits, pre.ByteLevel(add_prefix_space=False)])
    else:
        pattern = tokenizers.Regex(_QWEN2 if cut == "qwen2" else _LLAMA3)
        split = pre.Split(pattern, "isolated")
        inner.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    if cut == "qwen2":
        inner.normalizer = tokenizers.normalizers.NFC()
    inner.decoder = tokenizers.decoders.ByteLevel()
    return inner


def _gguf_pieces(tokenizers: ModuleType, said: Mapping[str, Any], vocabulary: dict[str, int]) -> Any:
    """Pieces of sentencepiece's BPE, Llama's and Gemma's: two are merged if their union has the best score."""
    scores = said["tokenizer.ggml.scores"]
    merges = []
    for piece, number in vocabulary.items():
        for i in range(1, len(piece)):
            if piece[:i] in vocabulary and piece[i:] in vocabulary:
                merges.append((-scores[number], number, piece[:i], piece[i:]))
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary,
            merges=[tuple(rest) for _, _, *rest in sorted(merges)],
            unk_token=next((piece for piece in ("<unk>",) if piece in vocabulary), None),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [tokenizers.normalizers.Replace(" ", "▁")]
    strip = []
    if said.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, tokenizers.normalizers.Prepend("▁"))
        strip = [tokenizers.decoders.Strip(" ", 1, 0)]
    inner.normalizer = tokenizers.normalizers.Sequence(spaces)
    decoders = tokenizers.decoders
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return inner


def _open(path: Path, kind: str, make: Callable[[], Any]) -> LibraryTokenizer:
    try:
        inner = make()
    except Exception as error:  # the library's Rust raises no narrower class
        raise ConfigError(f"{path}: expected {kind}: {error}") from error
    return LibraryTokenizer(inner, path.parent)


def _between(tokenizers: ModuleType, inner: Any, start: str, end: str) -> Any:
    return tokenizers.processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(name, inner.token_to_id(name)) for name in (start, end)],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a text file in UTF-8: {error}") from error


def _said(folder: Path) -> dict[str, Any]:
    """What the files beside a tokenizer say of it."""
    said: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            try:
                read = json.loads((folder / name).read_text(encoding="utf-8"))
                said |= read
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{folder / name}: expected a JSON object: {error}") from error
    return said


def _special(vocabulary: Mapping[str, int], said: Mapping[str, Any]) -> dict[str, int]:
    special = {}
    for role in ROLES:
        told = said.get(f"{role}_token")
        told = told.get("content") if isinstance(told, Mapping) else told
        names = _NAMES[role] if told is None else (told,)
        if role in ("cls", "sep") and "<mask>" in vocabulary:  # RoBERTa's ends serve as both
            names += _NAMES["bos" if role == "cls" else "eos"]
        found = [vocabulary[name] for name in names if name in vocabulary]
        if found:
            special[role] = found[0]
    return special


def _sentinels(vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    numbers = {}
    for token, i in vocabulary.items():
        if match := re.fullmatch(r"▁?<extra_id_(\d+)>", token):
            numbers[int(match[1])] = i
    return tuple(numbers[n] for n in sorted(numbers))
