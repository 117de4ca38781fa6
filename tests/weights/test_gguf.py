"""GGUF files: quantised tensors, what the metadata say, the tokenizer inside, and files that are refused."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import gguf_header, tokenizers
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.loading import load_folder
from deepmodels.models import create
from deepmodels.models.llama import Llama, Mixture, Window
from deepmodels.weights import gguf_file
from deepmodels.weights.convert import from_ours

gguf = pytest.importorskip("gguf")

SIZES = dict(vocab_size=64, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_size=16, mlp_size=256)
GEMMA = dict(norm_offset=1.0, scaled_embed=True, gate_function="geglu", tied=True)
MODELS = {
    "llama": Llama(**SIZES, epsilon=1e-5),
    "llama with experts": Llama(**SIZES, mixture=Mixture(4, 2)),
    "qwen2": Llama(**SIZES, qkv_bias=True, tied=True),
    "qwen3moe": Llama(**SIZES, head_norms=True, mixture=Mixture(4, 2)),
    "gemma2": Llama(
        **SIZES, **GEMMA, post_norms=True, attention_soft_cap=50.0, logit_soft_cap=30.0, window=Window(8, 2)
    ),
    "gemma3": Llama(**SIZES, **GEMMA, post_norms=True, head_norms=True, window=Window(8, 6)),
}
WORDS = ["<|a|>", "<|b|>", *(chr(c) for c in range(ord("a"), ord("z") + 1)), "Ġ", "th", "the", "1", "2"]


def variables_of(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), dict(shapes))


def write(path, name, model, variables, kind=None, **more):
    """Writes a model as llama.cpp's converter does, its matrices in a quantised type."""
    architecture = name.split()[0]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(model.num_layers)
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.mlp_size)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_layer_norm_rms_eps(model.epsilon)
    writer.add_context_length(128)
    writer.add_rope_freq_base(model.rope.theta)
    if model.mixture is not None:
        writer.add_expert_count(model.mixture.num_experts)
        writer.add_expert_used_count(model.mixture.num_chosen)
    if model.window is not None:
        writer.add_sliding_window(model.window.size)
    for key, value in more.items():
        getattr(writer, key)(value)
    rules = gguf_file.rules(architecture, model.num_heads, model.num_kv_heads)
    arrays = from_ours(variables, rules)
    for key, array in arrays.items():
        if kind is not None and array.ndim > 1 and array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(key, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays


@pytest.mark.parametrize("name", MODELS)
def test_what_the_metadata_say_and_every_parameter(name, tmp_path):
    model = MODELS[name]
    variables = variables_of(model)
    arrays = write(tmp_path / "model.gguf", name, model, variables)
    if name == "llama":
        # rows of queries in turns of the two halves, so that pairs stand beside each other
        kernel = variables["params"]["layers"]["attention"]["query"]["kernel"][0]
        np.testing.assert_array_equal(arrays["blk.0.attn_q.weight"][:4], kernel.T[[0, 8, 1, 9]])
    if name == "gemma2":
        scale = variables["params"]["norm"]["scale"]
        np.testing.assert_array_equal(arrays["output_norm.weight"], scale + 1)
    got, again = load_folder(tmp_path / "model.gguf")
    for field in ("num_kv_heads", "head_size", "mlp_size", "epsilon", "tied", "mixture", "qkv_bias", "head_norms"):
        assert getattr(got, field) == getattr(model, field), field
    for field in ("post_norms", "norm_offset", "attention_soft_cap", "logit_soft_cap", "gate_function"):
        assert getattr(got, field) == getattr(model, field), field
    assert (got.window is None) == (model.window is None)
    assert got.max_length == 128
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, variables)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "BF16", "F16"])
def test_quantised_tensors(kind, tmp_path):
    model = MODELS["llama"]
    variables = variables_of(model)
    write(tmp_path / "model.gguf", "llama", model, variables, getattr(gguf.GGMLQuantizationType, kind))
    _, got = load_folder(tmp_path / "model.gguf")
    step = {"Q4_0": 1 / 8, "Q4_1": 1 / 15, "Q8_0": 1 / 127, "BF16": 1 / 256, "F16": 1 / 2048}[kind]
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        assert np.abs(np.asarray(_at(got, path)) - leaf).max() <= step * np.abs(leaf).max()
    kernel = got["params"]["layers"]["mlp"]["down"]["kernel"]
    assert np.any(np.asarray(kernel) != variables["params"]["layers"]["mlp"]["down"]["kernel"])


def _at(tree, path):
    for entry in path:
        tree = tree[entry.key]
    return tree


def test_k_quants_are_read_as_the_package_reads_them(tmp_path):
    """The package can't write these: random blocks, of which every one is a number."""
    kind = gguf.GGMLQuantizationType.Q4_K
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (256, size)).astype(np.uint8)
    blocks[:, :4] = np.frombuffer(np.array([0.01, 0.02], np.float16).tobytes(), np.uint8)  # finite scales
    model = Llama(**SIZES | dict(num_layers=1, hidden_size=256))
    variables = variables_of(model)
    path = tmp_path / "model.gguf"
    write(path, "llama", model, variables)
    # in place of the tensors that are down's, (hidden, mlp) in float32
    tensors, _ = gguf_file.describe(path)
    down = tensors["blk.0.ffn_down.weight"]
    quantised = down._replace(kind=int(kind), row_bytes=size, begin=down.begin)
    data = bytearray(path.read_bytes())
    data[down.begin : down.begin + blocks.nbytes] = blocks.tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(np.asarray(quantised), gguf.quants.dequantize(blocks, kind))


def test_llama_3s_frequencies(tmp_path):
    model = MODELS["llama"]
    variables = variables_of(model)
    path = tmp_path / "model.gguf"
    original = gguf.GGUFWriter.write_header_to_file

    def with_divisors(writer):
        writer.add_tensor("rope_freqs.weight", np.array([1, 1, 2, 4, 8, 8, 8, 8], np.float32))
        original(writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_divisors)
        write(path, "llama", model, variables)
    got, _ = load_folder(path)
    assert got.rope.scaling.divisors == (1, 1, 2, 4, 8, 8, 8, 8)


@pytest.fixture
def with_tokenizer(tmp_path):
    def make(**more):
        model = create("llama_tiny", vocab_size=len(WORDS), head_size=4)
        entries = dict(add_tokenizer_model="gpt2", add_token_list=WORDS, add_token_merges=["t h", "th e"])
        entries |= dict(add_token_types=[3, 3] + [1] * (len(WORDS) - 2), add_tokenizer_pre="smollm")
        entries |= dict(add_bos_token_id=0, add_eos_token_id=1)
        write(tmp_path / "model.gguf", "llama", model, variables_of(model), **entries | more)
        return tmp_path / "model.gguf"

    return make


def test_the_tokenizer_inside(with_tokenizer):
    tokenizer = tokenizers.load(with_tokenizer())
    ids = [WORDS.index(word) for word in ("the", "Ġ", "c", "a", "t", "1", "2")]
    assert tokenizer.encode("the cat12") == ids
    assert tokenizer.decode(ids) == "the cat12"
    assert tokenizer.frame("the") == ([WORDS.index("the")], [0])
    assert tokenizer.encode("<|b|>the") == [1, WORDS.index("the")]
    assert (tokenizer.special["bos"], tokenizer.special["eos"]) == (0, 1)
    framed = tokenizers.load(with_tokenizer(add_add_bos_token=True, add_add_eos_token=True))
    assert framed.frame("the")[0] == [0, WORDS.index("the"), 1]


def test_pieces_of_sentencepiece(with_tokenizer):
    words = ["<unk>", "<s>", "</s>", "▁", "t", "h", "e", "th", "▁the", "the"]
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    scores = [0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -8.0, -1.0, -3.0, -2.0] + [0.0] * 256
    kinds = [2, 3, 3] + [1] * 7 + [6] * 256
    path = with_tokenizer(
        add_tokenizer_model="llama",
        add_token_list=words,
        add_token_scores=scores,
        add_token_types=kinds,
        add_bos_token_id=1,
        add_eos_token_id=2,
    )
    tokenizer = tokenizers.load(path)
    assert tokenizer.encode("the the") == [8, 8]
    assert tokenizer.frame("the")[0] == [1, 8]
    unseen = tokenizer.encode("é")
    assert unseen == [3, *(words.index(f"<0x{byte:02X}>") for byte in "é".encode())]
    assert tokenizer.decode([8, 8, *unseen[1:]]) == "the theé"


def test_the_chat_template_inside(with_tokenizer):
    template = "{% for m in messages %}{{ bos_token + m['content'] + eos_token }}{% endfor %}"
    chat = tokenizers.load_chat(with_tokenizer(add_chat_template=template))
    assert chat.render([{"role": "user", "content": "hi"}]) == "<|a|>hi<|b|>"
    with pytest.raises(ConfigError, match="no chat template in its metadata"):
        tokenizers.load_chat(with_tokenizer())


def test_unknown_tokenizers(with_tokenizer):
    with pytest.raises(ConfigError, match="its tokenizer is 'bert', but only gpt2 and llama are known"):
        tokenizers.load(with_tokenizer(add_tokenizer_model="bert"))
    with pytest.raises(ConfigError, match="its way to cut text is 'tekken'"):
        tokenizers.load(with_tokenizer(add_tokenizer_pre="tekken"))


def header(*, version=3, tensors=0, entries=0, body=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + body


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "4 bytes are claimed where 0 are left"),
        (b"GGML" + bytes(30), "doesn't begin with GGUF"),
        (header(version=1), "its version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "its version is 50331648"),
        (header(entries=2**60), "entries are claimed in 0 bytes"),
        (header(tensors=2**60), "tensors and 0 entries are claimed"),
        (header(entries=1, body=struct.pack("<Q", 2**50) + bytes(40)), "a name of"),
        (header(entries=1, body=text("a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(40)), "a list of .* texts"),
        (header(entries=1, body=text("a") + struct.pack("<IIQ", 9, 10, 2**60) + bytes(40)), "bytes are claimed"),
        (header(entries=1, body=text("a") + struct.pack("<IIQ", 9, 9, 4) + bytes(40)), "a list of values of type 9"),
        (header(entries=1, body=text("a") + struct.pack("<I", 77) + bytes(40)), "unknown type 77"),
        (header(entries=2, body=2 * (text("a") + struct.pack("<IB", 0, 1)) + bytes(9)), "'a' occurs twice"),
        (header(entries=1, body=struct.pack("<Q", 1) + b"\xff" + bytes(40)), "can't decode"),
        (header(tensors=1, body=text("t") + struct.pack("<I", 9) + bytes(99)), "has 9 axes"),
    ],
)
def test_damaged_headers(data, message, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"model.gguf isn't a GGUF file that can be used: .*{message}"):
        gguf_header.read(path)
    with pytest.raises(WeightsError):
        load_folder(path)
    with pytest.raises(ConfigError, match=r"model\.gguf"):
        tokenizers.load(path)


def test_files_that_dont_hold_what_they_say(tmp_path):
    model = MODELS["llama"]
    path = tmp_path / "model.gguf"
    write(path, "llama", model, variables_of(model))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="which isn't in its .* bytes"):
        load_folder(path)
    at = whole.index(b"blk.1.attn_norm.weight") + len("blk.1.attn_norm.weight")
    path.write_bytes(whole[: at + 4 + 8] + struct.pack("<I", 999) + whole[at + 4 + 8 + 4 :])
    with pytest.raises(WeightsError, match=r"blk.1.attn_norm.weight is of the unknown type 999"):
        load_folder(path)
    path.write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.1.attn_k.weight"))
    with pytest.raises(WeightsError, match="occurs twice"):
        load_folder(path)
    path.write_bytes(whole.replace(b"llama.block_count", b"llama.block_cuont"))
    with pytest.raises(WeightsError, match=r"model.gguf: its metadata have no llama.block_count"):
        load_folder(path)
    path.write_bytes(whole.replace(b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
                                   b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0lamas"))  # fmt: skip
    with pytest.raises(WeightsError, match="unknown architecture 'lamas': did you mean 'llama'"):
        load_folder(path)
