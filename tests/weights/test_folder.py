"""Folders as transformers saves them, without transformers: what is read, what is refused, and what is written."""

import json

import jax
import numpy as np
import pytest

from deepmodels.errors import DeepModelsError, WeightsError
from deepmodels.layers.rotary import Linear, Llama3, Rope, Yarn
from deepmodels.loading import load_folder, save_folder
from deepmodels.models.bert import Bert
from deepmodels.models.clip import CLIP, CLIPText
from deepmodels.models.deepseek import DeepSeek, Routes
from deepmodels.models.llama import Llama, Mixture, Window
from deepmodels.models.t5 import T5
from deepmodels.models.vit import ViT
from deepmodels.weights import files, folder

SIZES = dict(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, mlp_size=16)
BERT = Bert(**SIZES, max_length=10)
VIT = dict(patch_size=4, hidden_size=8, num_layers=2, num_heads=2, mlp_size=32, image_size=8, antialias=False)
DECODER = SIZES | dict(num_heads=4, num_kv_heads=2, head_size=4, max_length=64)
GEMMA = dict(norm_offset=1.0, scaled_embed=True, gate_function="geglu", tied=True)
LATENT = SIZES | dict(
    latent_size=4, head_size=4, rotary_size=2, value_size=4, num_dense_layers=1, expert_size=8, max_length=64
)
TOWERS = dict(
    embedding_size=4, image_size=8, patch_size=4, vision_size=8, vision_layers=2, vision_heads=2, vision_mlp_size=16,
    vocab_size=20, max_length=10, text_size=8, text_layers=1, text_heads=2, text_mlp_size=16,
)  # fmt: skip
MODELS = {
    "bert": BERT,
    "bert_for_pretraining": BERT.clone(head="pretraining"),
    "roberta": BERT.clone(padding_index=1, num_segments=1, head="sequence_classification", num_classes=5),
    "distilbert": BERT.clone(num_segments=0, pooling=False, pooler_activation="relu", head="masked_lm"),
    "t5": T5(**SIZES, head_size=4, tied=True),
    "t5_v1_1": T5(**SIZES, head_size=4, gated=True, tied=False, num_decoder_layers=1),
    "llama": Llama(**DECODER, rope=Rope(5e5, Llama3(8.0, 1.0, 4.0, 32)), qkv_bias=True, out_bias=True, tied=True),
    "mistral": Llama(**DECODER, window=Window(6), rope=Rope(1e4, Linear(2.0))),
    "mixtral": Llama(**DECODER, mixture=Mixture(4, 2)),
    "qwen2": Llama(**DECODER, qkv_bias=True, rope=Rope(1e6, Yarn(4.0, 32)), window=Window(6, 2)),
    "qwen3": Llama(**DECODER, head_norms=True),
    "qwen3_moe": Llama(**DECODER, head_norms=True, mixture=Mixture(4, 2, normalised=False)),
    "gemma": Llama(**DECODER, **GEMMA),
    "gemma2": Llama(**DECODER, **GEMMA, post_norms=True, window=Window(6, 2), attention_soft_cap=50.0, scale_size=9),
    "gemma3_text": Llama(
        **DECODER,
        **GEMMA,
        post_norms=True,
        head_norms=True,
        scale_size=4,
        window=Window(6, 2, Rope(1e4)),
        rope=Rope(1e6, Linear(8.0)),
    ),
    "gpt_oss": Llama(
        **DECODER,
        sinks=True,
        gate_function="clamped_swiglu",
        mixture=Mixture(4, 2, use_bias=True),
        window=Window(6, 2),
        qkv_bias=True,
        out_bias=True,
        rope=Rope(150_000.0, Yarn(32.0, 16, truncate=False)),
    ),
    "gpt_oss without scaling": Llama(
        **DECODER,
        sinks=True,
        gate_function="clamped_swiglu",
        mixture=Mixture(4, 2, use_bias=True),
    ),
    "deepseek_v2": DeepSeek(**LATENT, query_rank=None, num_shared=2, routes=Routes(4, 2, sigmoid=False, factor=2.0)),
    "deepseek_v3": DeepSeek(
        **LATENT,
        query_rank=6,
        routes=Routes(4, 2, factor=2.5, num_groups=2, num_chosen_groups=1),
        rope=Rope(1e4, Yarn(40.0, 32, mscale=1.0, mscale_all_dim=1.0)),
    ),
    "vit": ViT(**VIT, num_classes=5),
    "dinov2": ViT(**VIT, layer_scale=1.0, num_classes=0),
    "clip": CLIP(**TOWERS, end_id=19),
    "clip_text": CLIPText(**SIZES, max_length=10, embedding_size=0, activation="gelu"),
    "clip_text with projection": CLIPText(**SIZES, max_length=10, embedding_size=4),
}


def inputs(model):
    tokens = np.arange(6).reshape(1, 6).astype(np.int32)
    images = np.zeros((1, 8, 8, 3), np.float32)
    if isinstance(model, ViT | CLIP):
        return [images] if isinstance(model, ViT) else [images, tokens]
    return [tokens, tokens] if isinstance(model, T5) else [tokens]


def variables(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(model))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def saved(tmp_path, name="bert"):
    save_folder(tmp_path / "model", MODELS[name], variables(MODELS[name]))
    return tmp_path / "model"


def change(place, **values):
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_again(name, tmp_path):
    model, again = load_folder(saved(tmp_path, name))
    fields = type(model).__dataclass_fields__.keys() - {"parent", "name", "num_decoder_layers", "pooling"}
    assert {key: getattr(model, key) for key in fields} == {key: getattr(MODELS[name], key) for key in fields}
    jax.tree.map(np.testing.assert_array_equal, again, variables(MODELS[name]))


def test_shards_are_read_and_a_missing_one_is_named(tmp_path):
    place = saved(tmp_path)
    arrays = files.read(place)
    (place / "model.safetensors").unlink()
    names = sorted(arrays)
    places = {key: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, key in enumerate(names)}
    for shard in set(places.values()):
        files.write(place / shard, {key: arrays[key] for key in names if places[key] == shard})
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    jax.tree.map(np.testing.assert_array_equal, load_folder(place)[1], variables(BERT))
    (place / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="1 of 2 parts are missing: model-00002-of-00002.safetensors"):
        load_folder(place)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (dict(model_type="bart"), "unknown model_type 'bart': did you mean 'bert'"),
        (dict(model_type=None), "unknown model_type None"),
        (dict(architectures=["BertForMultipleChoice"]), r"unknown architecture .*: did you mean 'BertFor"),
        (dict(architectures="BertModel"), "unknown architecture 'BertModel'"),
        (dict(hidden_act="relu"), "hidden_act is 'relu', but only 'gelu' is implemented"),
        (dict(num_hidden_layers="two"), "num_hidden_layers is 'two', not a natural number"),
        (dict(num_hidden_layers=10**6), "num_hidden_layers is 1000000, but there are only 39 arrays"),
        (dict(hidden_size=8.5), "hidden_size is 8.5, not a natural number"),
        (dict(vocab_size=-1), "vocab_size is -1, not a natural number"),
        (dict(layer_norm_eps=None, hidden_dropout_prob="0"), "hidden_dropout_prob is '0', not a number"),
        (dict(vocab_size=21), r"params/token_embed/embedding needs float32\[21, 8\]"),
        (dict(num_hidden_layers=3), r"missing: .*encoder.layer.2"),
        (dict(architectures=["BertForMaskedLM"]), "missing: .*cls.predictions"),
    ],
)
def test_configs_that_dont_fit(values, says, tmp_path):
    place = saved(tmp_path)
    change(place, **values)
    with pytest.raises(WeightsError, match=says):
        load_folder(place)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        (
            "llama",
            dict(rope_scaling=dict(rope_type="longrope", factor=2.0)),
            "rope_type is 'longrope', but only default",
        ),
        ("llama", dict(rope_scaling=dict(rope_type="llama3", factor=2.0)), "'llama3' have no low_freq_factor"),
        ("llama", dict(rope_scaling=dict(type="linear", factor=-2.0)), "factor is -2.0, not a positive number"),
        ("llama", dict(rope_scaling="linear"), "rope_parameters are 'linear', not numbers by name"),
        ("llama", dict(rope_theta="much"), "rope_theta is 'much', not a positive number"),
        ("llama", dict(rope_parameters=dict(partial_rotary_factor=0.5)), "partial_rotary_factor is 0.5"),
        ("llama", dict(mlp_bias=True), "mlp_bias is True, but only False is implemented"),
        ("llama", dict(attention_dropout=0.1), "attention_dropout is 0.1, but only 0.0 is implemented"),
        ("llama", dict(quantization_config={"quant_method": "awq"}), "quantization_config is .*awq.*, but only mxfp4"),
        ("llama", dict(tie_word_embeddings="yes"), "tie_word_embeddings is 'yes', not true or false"),
        ("llama", dict(tie_word_embeddings=False), "missing: lm_head.weight"),
        ("llama", dict(num_attention_heads=2), "q_proj.weight is .*needs"),
        ("llama", dict(architectures=["LlamaForTokenClassification"]), "unknown architecture"),
        ("qwen2", dict(layer_types=["full_attention", "sliding_attention"]), "where every n-th layer is"),
        ("qwen2", dict(layer_types=["full_attention"]), "for 2 layers"),
        ("gemma2", dict(layer_types=["sliding", "full"]), "layer_types are .*, not 'full_attention'"),
        ("gemma2", dict(hidden_activation="relu"), "hidden_activation is 'relu', but only 'gelu_pytorch_tanh'"),
        ("gemma3_text", dict(use_bidirectional_attention=True), "only causal attention is implemented"),
        ("qwen3_moe", dict(mlp_only_layers=[1]), "mlp_only_layers are"),
        ("gpt_oss", dict(swiglu_limit=8.0), "swiglu_limit is 8.0, but only 7.0 is implemented"),
        ("deepseek_v2", dict(topk_method="random"), "topk_method is 'random'"),
        ("deepseek_v3", dict(rope_interleave=False), "rope_interleave is False, but only True is implemented"),
        ("clip", dict(text_config=dict(hidden_act="gelu")), r"hidden_act is \['gelu', 'quick_gelu'\], but only one of"),
        (
            "clip",
            dict(vision_config=dict(num_channels=1)),
            "vision_config.num_channels is 1, but only 3 is implemented",
        ),
        ("clip", dict(vision_config=dict(patch_size=[4, 4])), r"vision_config.patch_size is \[4, 4\], not a natural"),
        ("clip_text", dict(eos_token_id="</s>"), "eos_token_id is '</s>', not a natural number"),
        ("deepseek_v3", dict(n_routed_experts=5), "routes: 5 experts can't be 2 groups"),
    ],
)
def test_configs_of_decoders_that_dont_fit(name, values, says, tmp_path):
    place = saved(tmp_path, name)
    change(place, **values)
    with pytest.raises(DeepModelsError, match=says):
        load_folder(place)


def test_folders_that_arent_any(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json: there is no such file"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(WeightsError, match="expected an object, got a list"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json can't be read"):
        load_folder(tmp_path)


def test_a_vocabulary_larger_than_the_embedding(tmp_path):
    place = saved(tmp_path)
    (place / "vocab.txt").write_text("\n".join(f"word{i}" for i in range(20)) + "\n")
    load_folder(place)
    (place / "vocab.txt").write_text("\n".join(f"word{i}" for i in range(21)) + "\n")
    with pytest.raises(WeightsError, match=r"vocab.txt has 21 tokens, but the model's embedding 20 rows"):
        load_folder(place)
    content = {"model": {"vocab": {"a": 0, "b": 19}}, "added_tokens": [{"id": 20, "content": "[NEW]"}]}
    (place / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"tokenizer.json has 21 tokens"):
        load_folder(place)
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"tokenizer.json isn't a tokenizer's file"):
        load_folder(place)


def test_what_transformers_has_no_model_for():
    for model in (BERT.clone(padding_index=1, head="pretraining"), MODELS["dinov2"].clone(num_classes=3)):
        arguments = {name: getattr(model, name) for name in type(model).__dataclass_fields__}
        with pytest.raises(WeightsError, match="transformers has no model like this"):
            folder.config_of(type(model).__module__.rpartition(".")[2], arguments)
