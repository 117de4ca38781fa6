"""Documents in packed windows: what is kept and counted once, infilling, chats, and the splits."""

import json
from itertools import islice

import numpy as np
import pytest

from deepmodels import data, tokenizers
from deepmodels.data.documents import chat_tokens, cut_document, fill_in_the_middle, frame, infilling_ids, pack
from deepmodels.errors import ConfigError, DataError

BYTES = tokenizers.Bytes()


def documents_of(source):
    """The documents of all windows, without padding."""
    found = []
    for index in range(len(source)):
        record = source[index]
        tokens, documents = record["tokens"], record["documents"]
        assert (np.diff(documents[documents > 0]) >= 0).all(), "one after the other"
        assert (documents > 0).sum() == len(np.trim_zeros(documents)), "padding is at the end"
        found += [tokens[documents == number] for number in range(1, documents.max() + 1)]
    return found


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    texts = {f"part{i % 2}/{i:02}.py": "".join(rng.choice(list("abc\n"), rng.integers(1, 90))) for i in range(30)}
    for name, text in texts.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "other.txt").write_text("not code")
    return tmp_path, texts


def test_every_token_but_the_first_follows_others_once():
    for length in (1, 2, 7, 8, 9, 15, 16, 30):
        pieces = list(cut_document(range(length), 8))
        assert all(len(piece) <= 8 for piece in pieces)
        assert [int(token) for piece in pieces for token in piece[1:]] == list(range(1, length))


def test_packing_fills_windows():
    lengths = np.random.default_rng(0).integers(1, 33, 2_000).tolist()
    windows = pack(lengths, 64)
    assert sorted(i for window in windows for i in window) == list(range(2_000))
    assert max(sum(lengths[i] for i in window) for window in windows) <= 64
    assert len(windows) <= 1.01 * -(-sum(lengths) // 64), "nearly all is filled"
    assert pack([3, 5, 4, 4], 8) == [[0, 1], [2, 3]]


def test_documents_of_a_folder(folder):
    path, texts = folder
    train, test = (
        data.create("documents", split=split, path=path, pattern="**/*.py", max_length=32, test_share=0.3)
        for split in ("train", "test")
    )
    record = train[0]
    assert {key: (v.shape, v.dtype) for key, v in record.items()} == {
        "tokens": ((32,), np.int32), "documents": ((32,), np.int32),
    }  # fmt: skip
    expected = sorted(
        tuple(piece.tolist()) for text in texts.values() for piece in cut_document(frame(BYTES.encode(text), BYTES), 32)
    )
    found = [sorted(tuple(piece.tolist()) for piece in documents_of(source)) for source in (train, test)]
    assert sorted(found[0] + found[1]) == expected
    assert 3 <= sum(piece[0] == 1 for piece in found[1]) <= 15, "about a third of the 30 files"
    again = data.create("documents", split="test", path=path, pattern="**/*.py", max_length=32, test_share=0.3)
    np.testing.assert_array_equal(test.arrays["tokens"], again.arrays["tokens"])


def test_batches_of_documents_are_a_function_of_seed_and_step(folder):
    source = data.create("documents", split="train", path=folder[0], pattern="**/*.py", max_length=32)
    first = list(islice(data.batches(source, batch_size=4, seed=3), 12))
    later = list(islice(data.batches(source, batch_size=4, seed=3, start_step=9), 3))
    for batch, again in zip(first[9:], later, strict=True):
        for name in ("tokens", "documents"):
            np.testing.assert_array_equal(batch[name], again[name])


def test_documents_of_split_folders_and_of_tables(tmp_path):
    for split, text in {"train": "abc", "test": "abd"}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.txt").write_text(text)
    test = data.create("documents", split="test", path=tmp_path, tokenizer="characters", max_length=8)
    (document,) = documents_of(test)
    assert document.tolist() == [1, *test.tokenizer.encode("abd"), 2]
    assert test.tokenizer.encode("d") == [test.tokenizer.special["unk"]], "only the train split is known"
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(json.dumps({"body": f"text {i}"}) for i in range(10)))
    options = dict(path=table, column="body", max_length=16, test_share=0.2)
    sizes = [len(documents_of(data.create("documents", split=split, **options))) for split in ("train", "test")]
    assert sizes == [8, 2]
    with pytest.raises(ConfigError, match="has no validation split"):
        data.create("documents", split="validation", path=tmp_path)
    with pytest.raises(DataError, match=r"no files '\*\*/\*.md' for its train split"):
        data.create("documents", split="train", path=tmp_path, pattern="**/*.md")
    with pytest.raises(ConfigError, match="infill_rate: expected a share"):
        data.create("documents", split="train", path=tmp_path, infill_rate=2)


@pytest.mark.parametrize("suffix_first", [False, True])
def test_infilling_can_be_put_together_again(suffix_first):
    text = "def f(x):\n    return x"
    before, after, between = infilling_ids(BYTES)
    ids = fill_in_the_middle(text, BYTES, 4, 9, suffix_first=suffix_first)
    assert ids[0] == before
    assert ids[-1] == BYTES.end_id
    suffix, middle = ids.index(after), ids.index(between)
    if suffix_first:
        assert suffix == 1
        assert BYTES.decode(ids[middle + 1 : -1]) + BYTES.decode(ids[2:middle]) == text
    else:
        parts = ids[1:suffix], ids[middle + 1 : -1], ids[suffix + 1 : middle]
        assert [BYTES.decode(part) for part in parts] == [text[:4], text[4:9], text[9:]]


def test_a_share_of_the_train_split_is_infilled(folder):
    path, _ = folder
    options = dict(path=path, pattern="**/*.py", max_length=48, test_share=0.3)
    train, test = (data.create("documents", split=split, infill_rate=0.5, **options) for split in ("train", "test"))
    before, after, between = infilling_ids(BYTES)
    pieces = documents_of(train)
    tasks = [piece.tolist() for piece in pieces if piece[0] == before]
    assert 0.25 < len(tasks) / len(pieces) < 0.75
    assert {task[1] == after for task in tasks} == {True, False}, "both orders"
    assert all(task.count(after) == task.count(between) == 1 and task[-1] == 2 for task in tasks)
    assert not np.isin(test.arrays["tokens"], [before, after, between]).any()
    plain = data.create("documents", split="train", path=path, pattern="**/*.py", max_length=48, test_share=0.3)
    assert not np.isin(plain.arrays["tokens"], [before]).any()


def test_infilling_needs_ids(tmp_path):
    (tmp_path / "train.txt").write_text("the house of the people " * 20)
    plain = tokenizers.train_bpe([tmp_path / "train.txt"], 270, tmp_path / "plain.json")
    with pytest.raises(ConfigError, match="deepmodels tokenizer train --special '<fim_prefix>'"):
        infilling_ids(plain)
    marks = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    made = tokenizers.train_bpe([tmp_path / "train.txt"], 280, tmp_path / "marks.json", special=marks)
    assert infilling_ids(made) == (5, 6, 7)
    assert made.decode(fill_in_the_middle("the house", made, 1, 2, suffix_first=True)) == "e houseth"
    assert infilling_ids(tokenizers.load(tmp_path / "marks.json")) == (5, 6, 7)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_of_a_chat_the_answers_are_learned(tmp_path):
    chat = tokenizers.Chat(TEMPLATE)
    turns = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")]
    messages = [{"role": role, "content": content} for role, content in turns]
    ids, learned = chat_tokens(messages, BYTES, chat)
    assert BYTES.decode(ids) == chat.render(messages, prompt=False)
    assert BYTES.decode([i for i, learn in zip(ids, learned, strict=True) if learn]) == "4</s>6</s>"
    ids, learned = chat_tokens(messages[:2], BYTES, chat)
    assert not any(learned)
    with pytest.raises(DataError, match="otherwise once more is said"):
        chat_tokens(messages, BYTES, tokenizers.Chat("{{ messages|length }}"))
    with pytest.raises(DataError, match="expected a list of objects with role"):
        chat_tokens(["hello"], BYTES, chat)


def test_chats_from_a_file(tmp_path):
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "x" * (1 + i % 3)}]}
        for i in range(20)
    ]
    rows[7]["messages"][1]["content"] = "long" * 50
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = dict(path=tmp_path / "chats.jsonl", tokenizer="bytes", template=tmp_path / "chat.jinja")
    train, test = (data.create("chats", split=split, max_length=64, **options) for split in ("train", "test"))
    assert sum(len(documents_of(source)) for source in (train, test)) == 19, "one is too long"
    record = test[0]
    assert record["loss_mask"].dtype == bool
    answer = BYTES.decode(record["tokens"][record["loss_mask"] & (record["documents"] == 1)])
    assert answer in {"x</s>", "xx</s>", "xxx</s>"}
    assert not record["loss_mask"][record["documents"] == 0].any()
    with pytest.raises(DataError, match="no chat with an answer has at most max_length=4"):
        data.create("chats", split="train", max_length=4, **options)
