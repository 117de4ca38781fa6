"""A model's folder as transformers has it: its config.json as our class's arguments and back, by one table per type.

bert-base/config.json  model.safetensors (or shards and an index)  tokenizer.json or vocab.txt
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from deepmodels.errors import WeightsError, nearest
from deepmodels.weights import bert, clip, deepseek, diffusers_config, gpt, llama, t5, vit
from deepmodels.weights.convert import Rules
from deepmodels.weights.layout import CONFIG, Described, Layout, number

_MAX_CONFIG = 16 * 2**20  # bytes
_MAX_VOCABULARY = 256 * 2**20


_BERT_FIELDS = {
    "vocab_size": ("vocab_size", 30_522),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "mlp_size": ("intermediate_size", 3072),
    "max_length": ("max_position_embeddings", 512),
    "num_segments": ("type_vocab_size", 2),
    "dropout_rate": ("hidden_dropout_prob", 0.1),
    "epsilon": ("layer_norm_eps", 1e-12),
}
_BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_BERT_HEADS = {
    "Model": {"head": None},
    "ForMaskedLM": {"head": "masked_lm"},
    "ForSequenceClassification": {"head": "sequence_classification"},
    "ForTokenClassification": {"head": "token_classification"},
    "ForQuestionAnswering": {"head": "question_answering"},
}
_VIT_FIELDS = {
    "patch_size": ("patch_size", 16),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "image_size": ("image_size", 224),
    "dropout_rate": ("hidden_dropout_prob", 0.0),
}
_VIT_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


_TANH = {"pooler_activation": "tanh"}


def _bert_derived(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {"pooling": any("pooler.dense." in name for name in names)}


def _bert_rules(model_type: str) -> Callable[[Mapping[str, Any]], Rules]:
    return lambda arguments: bert.transformers(model_type, arguments["head"])


def _t5_derived(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    kinds = {"relu": False, "gated-gelu": True}
    kind = config.get("feed_forward_proj", "relu")
    if kind not in kinds:
        raise WeightsError(f"feed_forward_proj: expected 'relu' or 'gated-gelu', got {kind!r}")
    # transformers 5 writes that it ties what it doesn't: the weights know better
    return {"gated": kinds[kind], "tied": "lm_head.weight" not in names}


LAYOUTS: Mapping[str, Layout] = {  # model_type in config.json -> layout
    "bert": Layout(
        *("bert", "Bert", _BERT_FIELDS, _BERT_FIXED, _TANH),
        _BERT_HEADS | {"ForPreTraining": {"head": "pretraining"}},
        *(_bert_rules("bert"), _bert_derived),
    ),
    "roberta": Layout(
        *("bert", "Roberta"),
        _BERT_FIELDS | {"vocab_size": ("vocab_size", 50_265), "padding_index": ("pad_token_id", 1)},
        *(_BERT_FIXED, _TANH, _BERT_HEADS, _bert_rules("roberta"), _bert_derived),
    ),
    "distilbert": Layout(
        *("bert", "DistilBert"),
        {
            "vocab_size": ("vocab_size", 30_522),
            "hidden_size": ("dim", 768),
            "num_layers": ("n_layers", 6),
            "num_heads": ("n_heads", 12),
            "mlp_size": ("hidden_dim", 3072),
            "max_length": ("max_position_embeddings", 512),
            "dropout_rate": ("dropout", 0.1),
        },
        {"activation": "gelu"},
        dict(num_segments=0, pooling=False, pooler_activation="relu", epsilon=1e-12),
        *(_BERT_HEADS, _bert_rules("distilbert")),
    ),
    "t5": Layout(
        *("t5", "T5"),
        {
            "vocab_size": ("vocab_size", 32_128),
            "hidden_size": ("d_model", 512),
            "num_layers": ("num_layers", 6),
            "num_heads": ("num_heads", 8),
            "mlp_size": ("d_ff", 2048),
            "head_size": ("d_kv", 64),
            "num_decoder_layers": ("num_decoder_layers", None),
            "num_buckets": ("relative_attention_num_buckets", 32),
            "max_distance": ("relative_attention_max_distance", 128),
            "dropout_rate": ("dropout_rate", 0.1),
            "epsilon": ("layer_norm_epsilon", 1e-6),
        },
        *({}, {}, {"ForConditionalGeneration": {}}, lambda arguments: t5.TRANSFORMERS, _t5_derived),
        lambda arguments: {
            "feed_forward_proj": "gated-gelu" if arguments["gated"] else "relu",
            "tie_word_embeddings": not arguments["gated"] if arguments["tied"] is None else arguments["tied"],
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
        },
    ),
    "vit": Layout(
        *("vit", "ViT"),
        _VIT_FIELDS | {"mlp_size": ("intermediate_size", 3072), "epsilon": ("layer_norm_eps", 1e-12)},
        *(_VIT_FIXED, dict(antialias=False)),
        {"Model": {"num_classes": 0}, "ForImageClassification": {}},
        lambda arguments: vit.VIT_WITH_HEAD if arguments["num_classes"] else vit.VIT,
    ),
    "dinov2": Layout(
        *("vit", "Dinov2"),
        _VIT_FIELDS | {"layer_scale": ("layerscale_value", 1.0), "epsilon": ("layer_norm_eps", 1e-6)},
        *(_VIT_FIXED | {"use_swiglu_ffn": False}, dict(antialias=False), {"Model": {"num_classes": 0}}),
        lambda arguments: vit.DINOV2,
        lambda config, names: {"mlp_size": int(number(config, "mlp_ratio", 4.0) * number(config, "hidden_size", 768))},
        lambda arguments: {"mlp_ratio": arguments["mlp_size"] // arguments["hidden_size"], "use_mask_token": False},
    ),
    **gpt.LAYOUTS,
    **llama.LAYOUTS,
    **deepseek.LAYOUTS,
    **clip.LAYOUTS,
}


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Returns what a folder's config.json, or another such file, says.

    Raises:
      WeightsError: there is none, or it isn't one.
    """
    return _read_json(folder / name, _MAX_CONFIG)


def describe(config: Mapping[str, Any], names: Collection[str]) -> Described:
    """Returns our family, the arguments of its class and the table of weights that a config.json means.

    Args:
      config: as `read_config` returns it.
      names: of the arrays in the folder.

    Raises:
      WeightsError: the type or the class isn't known, or the config says something that ours can't be.
    """
    if diffusers_config.CLASS in config:
        return diffusers_config.describe(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        raise WeightsError(f"{CONFIG}: unknown model_type {model_type!r}: {nearest(str(model_type), LAYOUTS)}")
    layout, config = LAYOUTS[model_type], _flat(config)
    classes = {layout.prefix + suffix: head for suffix, head in layout.heads.items()}
    named = config.get("architectures") or [next(iter(classes))]
    first = named[0] if isinstance(named, list) else None
    if not isinstance(first, str) or first not in classes:
        raise WeightsError(f"{CONFIG}: unknown architecture {named!r}: {nearest(str(first), classes)}")
    for name, value in layout.fixed.items():
        if config.get(name, value) != value:
            raise WeightsError(f"{CONFIG}: {name} is {config[name]!r}, but only {value!r} is implemented")
    arguments = {ours: number(config, theirs, default) for ours, (theirs, default) in layout.fields.items()}
    for ours, value in arguments.items():
        if ours.endswith("layers") and value is not None and value > len(names):
            said = f"{layout.fields[ours][0]} is {value}, but there are only {len(names)} arrays of weights"
            raise WeightsError(f"{CONFIG}: {said}")
    arguments |= dict(layout.arguments) | layout.derived(config, names) | dict(classes[named[0]])
    if "Classification" in named[0]:
        labels = config.get("id2label")
        arguments["num_classes"] = len(labels) if isinstance(labels, dict) else number(config, "num_labels", 2)
    return Described(layout.family, arguments, layout.rules(arguments))


def config_of(family: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Rules]:
    """Returns the config.json with which transformers or diffusers loads a model of ours, and its table of weights.

    Args:
      family: the file of the model's class, "bert".
      arguments: all attributes of the model.

    Raises:
      WeightsError: transformers has no such model.
    """
    of_diffusers = diffusers_config.config_of(family, arguments)
    if of_diffusers is not None:
        return of_diffusers
    for model_type, layout in LAYOUTS.items():
        if layout.family != family or any(arguments[ours] != value for ours, value in layout.arguments.items()):
            continue
        if not layout.fits(arguments):
            continue
        if ("padding_index" in layout.fields) != (arguments.get("padding_index") is not None):
            continue
        if family == "vit" and ("layer_scale" in layout.fields) != (arguments["layer_scale"] is not None):
            continue
        for suffix, head in layout.heads.items():
            if all(arguments[ours] == value for ours, value in head.items()):
                config = {theirs: arguments[ours] for ours, (theirs, _) in layout.fields.items()}
                config |= layout.fixed | layout.written(arguments)
                config |= {"model_type": model_type, "architectures": [layout.prefix + suffix], "dtype": "float32"}
                if "Classification" in suffix:
                    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(arguments["num_classes"])}
                    config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
                return _nested(config), layout.rules(arguments)
    raise WeightsError(f"transformers has no model like this {family}: {dict(arguments)}")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what is in configs inside it beside its own: "text_config.hidden_size"."""
    inner = {name: value for name, value in config.items() if isinstance(value, dict)}
    return dict(config) | {f"{name}.{key}": value for name, values in inner.items() for key, value in values.items()}


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `_flat` was given, of what it returns."""
    nested: dict[str, Any] = {}
    for name, value in config.items():
        outer, _, key = name.rpartition(".")
        (nested.setdefault(outer, {}) if outer else nested)[key] = value
    return nested


def check_vocabulary(folder: Path, vocab_size: int) -> None:
    """Checks that every token of the folder's tokenizer.json or vocab.txt, if it has one, has a row in the embedding.

    An embedding may have more rows than there are tokens, as many have.

    Raises:
      WeightsError: there are more tokens than rows, or the file isn't one of tokens.
    """
    for name, largest in (("tokenizer.json", _largest_id), ("vocab.txt", _last_line)):
        path = folder / name
        if path.is_file():
            count = largest(path) + 1
            if count > vocab_size:
                raise WeightsError(
                    f"{path} has {count:,} tokens, but the model's embedding {vocab_size:,} rows: "
                    "they don't belong together"
                )
            return


def _largest_id(path: Path) -> int:
    content = _read_json(path, _MAX_VOCABULARY)
    try:
        vocabulary = content["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in content.get("added_tokens", ())]
        return max([*ids, *added], default=-1)
    except (TypeError, LookupError, AttributeError) as error:
        raise WeightsError(f"{path} isn't a tokenizer's file: {type(error).__name__}: {error}") from error


def _last_line(path: Path) -> int:
    try:
        return len(path.read_text(encoding="utf-8").splitlines()) - 1
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} isn't a list of words: {error}") from error


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    try:
        if path.stat().st_size > limit:
            raise ValueError(f"it is larger than {limit:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file; a model's folder has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected an object, got a {type(content).__name__}")
    return content
