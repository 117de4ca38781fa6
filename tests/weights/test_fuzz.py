"""Files changed at random: every reader gives what it can use or its own error, and takes no more memory than allowed.

`FUZZ_CASES=2000 pytest tests/weights/test_fuzz.py` tries that many of each kind of file, others each time; the default
is a few, always the same.
"""

import gzip
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pickles
import pytest
from flax import serialization
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deepmodels import gguf_header, tokenizers
from deepmodels.data.idx import read_idx
from deepmodels.errors import DeepModelsError
from deepmodels.training.sinks import read_json_lines
from deepmodels.training.workdir import read_config
from deepmodels.weights import files, folder

CASES = os.environ.get("FUZZ_CASES")
ALLOWED = 96 * 2**20  # bytes; a small packed file may take 64 MiB
ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.float32)}
WORDS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]  # numbers that claims are made of


def _written(suffix: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        files.write(folder / f"made{suffix}", ARRAYS)
        return (folder / f"made{suffix}").read_bytes()

    return make


def _gguf(_: Path) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    entries += text("list") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)
    entries += text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    tensor = text("t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + entries + tensor + bytes(64)


def _idx(_: Path) -> bytes:
    return bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + bytes(range(24))


def _tokenizer(_: Path) -> bytes:
    library = pytest.importorskip("tokenizers")
    return library.Tokenizer(library.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, "[UNK]")).to_str().encode()


def _config(_: Path) -> bytes:
    return json.dumps(
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 8,
            "vocab_size": 9,
        }
    ).encode()


READERS: dict[str, tuple[Callable[[Path], bytes], str, Callable[[Path], object]]] = {
    "safetensors": (_written(".safetensors"), "model.safetensors", files.read),
    "npz": (_written(".npz"), "model.npz", files.read),
    "torch archive": (lambda _: pickles.state_dict(ARRAYS, "archive"), "model.pth", files.read),
    "torch stream": (lambda _: pickles.state_dict(ARRAYS, "stream"), "model.bin", files.read),
    "msgpack": (lambda _: serialization.to_bytes(ARRAYS), "model.msgpack", files.read),
    "gguf": (_gguf, "model.gguf", gguf_header.read),
    "idx": (_idx, "images-idx3-ubyte", lambda path: read_idx(path, 3)),
    "packed idx": (lambda path: gzip.compress(_idx(path), mtime=0), "images-idx3-ubyte.gz", lambda p: read_idx(p, 3)),
    "tokenizer.json": (_tokenizer, "tokenizer.json", tokenizers.load),
    "config.json": (_config, "config.json", lambda path: folder.describe(folder.read_config(path.parent), range(9))),
    "a run's config.json": (_config, "config.json", lambda path: read_config(path.parent)),
    "metrics.jsonl": (lambda _: b'{"step": 1, "loss": 0.5}\n{"step": 2}\n', "metrics.jsonl", read_json_lines),
}


VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(WORDS) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def other_values(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON in which a few values, at any depth, are others."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        branch = tree
        while branch:
            key = draw(st.sampled_from(sorted(branch) if isinstance(branch, dict) else range(len(branch))))
            if not isinstance(branch[key], dict | list) or not branch[key] or draw(st.booleans()):
                branch[key] = draw(VALUES)
                break
            branch = branch[key]
    return json.dumps(tree).encode()


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Data with a few bytes, numbers or stretches replaced, put in, taken out or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 40)))
        word = st.builds(
            lambda number, code: struct.pack(code, number % 2 ** (8 * struct.calcsize(code))),
            st.sampled_from(WORDS),
            st.sampled_from(["<B", "<H", "<I", ">I", "<Q", ">Q"]),
        )
        kind = draw(st.sampled_from(["replace", "overwrite", "repeat", "cut"]))
        if kind == "replace":
            data = data[:begin] + draw(st.binary(max_size=40)) + data[end:]
        elif kind == "overwrite":
            claim = draw(word)
            data = data[:begin] + claim + data[begin + len(claim) :]
        elif kind == "repeat":
            data = data[:end] + data[begin:end] * draw(st.integers(1, 50)) + data[end:]
        else:
            data = data[:begin] + data[end:]
    return data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own reader of pickles dislikes some escapes
@pytest.mark.parametrize("kind", READERS)
def test_changed_files(kind, tmp_path, record_property):
    make, name, read = READERS[kind]
    whole, path = make(tmp_path), tmp_path / "given" / name
    path.parent.mkdir()
    path.write_bytes(whole)
    read(path)
    refused, read_all_the_same = [], []

    @settings(
        max_examples=int(CASES or 25), deadline=None, database=None, derandomize=CASES is None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(changed(whole) | other_values(whole) if name.endswith(".json") else changed(whole))
    def one(data):
        assume(data != whole)
        path.write_bytes(data)
        tracemalloc.start()
        try:
            read(path)
            read_all_the_same.append(True)
        except DeepModelsError as error:
            refused.append(str(error))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < ALLOWED
        assert [file.name for file in path.parent.iterdir()] == [name], "a reader writes nothing"

    one()
    assert refused, "no change was one that is refused"
    record_property("trials", len(refused) + len(read_all_the_same))
    record_property("refused", len(refused))
    record_property("read, as what was changed doesn't matter or says another number", len(read_all_the_same))
