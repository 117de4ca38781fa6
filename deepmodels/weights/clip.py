"""Where transformers and open_clip keep the weights of CLIP; the authors' files have open_clip's names."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from deepmodels.errors import WeightsError
from deepmodels.weights.convert import DENSE, Rule, Rules, attention, batch_norm, conv, dense, layer_norm
from deepmodels.weights.layout import CONFIG, Layout, number

TEXT = (  # models that are the text tower alone
    *("stable_diffusion_1_text", "stable_diffusion_2_text", "stable_diffusion_xl_text_2", "clip_text_tiny"),
)
_LAYER = "layers[{layer}]"


def _layers(theirs: str, ours: str) -> Rules:
    """The rows of a tower's layers in transformers."""
    theirs, ours = f"{theirs}encoder.layers.{{layer}}", f"{ours}{_LAYER}"
    return (
        *layer_norm(f"{theirs}.layer_norm1", f"{ours}/norm1"),
        *dense(f"{theirs}.self_attn.q_proj", f"{ours}/attention/query"),
        *dense(f"{theirs}.self_attn.k_proj", f"{ours}/attention/key"),
        *dense(f"{theirs}.self_attn.v_proj", f"{ours}/attention/value"),
        *dense(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
        *layer_norm(f"{theirs}.layer_norm2", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/dense1"),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/dense2"),
    )


def _text(theirs: str, ours: str) -> Rules:
    return (
        Rule(f"{theirs}embeddings.token_embedding.weight", f"params/{ours}token_embed/embedding"),
        Rule(f"{theirs}embeddings.position_embedding.weight", f"params/{ours}position_embed/embedding"),
        Rule(f"{theirs}embeddings.position_ids", None),
        *_layers(theirs, ours),
        *layer_norm(f"{theirs}final_layer_norm", f"{ours}norm"),
    )


def _projection(theirs: str, ours: str) -> Rules:
    return (Rule(f"{theirs}.weight", f"params/{ours}projection/kernel", DENSE),)


_VISION = "vision_model.embeddings"

TRANSFORMERS: Rules = (
    *_text("text_model.", "text/"),
    *_projection("text_projection", "text/"),
    Rule(f"{_VISION}.class_embedding", "params/vision/class_token"),
    *conv(f"{_VISION}.patch_embedding", "vision/patch_embed"),
    Rule(f"{_VISION}.position_embedding.weight", "params/vision/position_embed"),
    Rule(f"{_VISION}.position_ids", None),
    *layer_norm("vision_model.pre_layrnorm", "vision/norm_first"),  # as it is written there
    *_layers("vision_model.", "vision/"),
    *layer_norm("vision_model.post_layernorm", "vision/norm"),
    *_projection("visual_projection", "vision/"),
    Rule("logit_scale", "params/logit_scale"),
)
# with the prefix that all versions of transformers read, and without, as its version 5 has a tower without projection
TRANSFORMERS_TEXT: Rules = (*_text("text_model.", ""), *_projection("text_projection", ""), *_text("", ""))


def _blocks(theirs: str, ours: str) -> Rules:
    """The rows of a tower's layers in open_clip."""
    theirs, ours = f"{theirs}transformer.resblocks.{{layer}}", f"{ours}{_LAYER}"
    return (
        *layer_norm(f"{theirs}.ln_1", f"{ours}/norm1"),
        *attention(f"{theirs}.attn", f"{ours}/attention"),
        *layer_norm(f"{theirs}.ln_2", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.c_fc", f"{ours}/dense1"),
        *dense(f"{theirs}.mlp.c_proj", f"{ours}/dense2"),
    )


_BLOCK, _OUR_BLOCK = "visual.layer{stage}.{block}", "vision/stage{stage}_block{block}"

OPEN_CLIP: Rules = (
    Rule("token_embedding.weight", "params/text/token_embed/embedding"),
    Rule("positional_embedding", "params/text/position_embed/embedding"),
    *_blocks("", "text/"),
    *layer_norm("ln_final", "text/norm"),
    Rule("text_projection", "params/text/projection/kernel"),
    Rule("logit_scale", "params/logit_scale"),
    Rule("visual.class_embedding", "params/vision/class_token"),
    *conv("visual.conv1", "vision/patch_embed"),
    Rule("visual.positional_embedding", "params/vision/position_embed"),
    *layer_norm("visual.ln_pre", "vision/norm_first"),
    *_blocks("visual.", "vision/"),
    *layer_norm("visual.ln_post", "vision/norm"),
    Rule("visual.proj", "params/vision/projection/kernel"),
    *conv("visual.conv{n}", "vision/conv{n}"),  # the ResNets
    *batch_norm("visual.bn{n}", "vision/norm{n}"),
    *conv(f"{_BLOCK}.conv{{n}}", f"{_OUR_BLOCK}/conv{{n}}"),
    *batch_norm(f"{_BLOCK}.bn{{n}}", f"{_OUR_BLOCK}/norm{{n}}"),
    *conv(f"{_BLOCK}.downsample.0", f"{_OUR_BLOCK}/conv_skip"),
    *batch_norm(f"{_BLOCK}.downsample.1", f"{_OUR_BLOCK}/norm_skip"),
    Rule("visual.attnpool.positional_embedding", "params/vision/pool_position_embed"),
    *dense("visual.attnpool.q_proj", "vision/pool/query"),
    *dense("visual.attnpool.k_proj", "vision/pool/key"),
    *dense("visual.attnpool.v_proj", "vision/pool/value"),
    *dense("visual.attnpool.c_proj", "vision/pool/out"),
    Rule("input_resolution", None),  # numbers in the authors' files
    Rule("context_length", None),
    Rule("vocab_size", None),
)

_ARGMAX = 2  # what the first versions of transformers say of eos_token_id: the largest token of a text ends it
_ACTIVATIONS = ("quick_gelu", "gelu")


def _derived(*towers: str) -> Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]]:
    """What a config says beside sizes, each of the towers under its prefix, the text's first."""

    def derived(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        kinds = [config.get(f"{tower}hidden_act", "quick_gelu") for tower in towers]
        if kinds[0] not in _ACTIVATIONS or any(kind != kinds[0] for kind in kinds):
            raise WeightsError(f"{CONFIG}: hidden_act is {kinds}, but only one of {_ACTIVATIONS} is implemented")
        end = number(config, f"{towers[0]}eos_token_id", 49_407)
        return {"activation": kinds[0], "end_id": None if end == _ARGMAX else end}

    return derived


def _written(**towers: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The same for a config to be written; towers are prefixes there by what our arguments begin with."""

    def written(arguments: Mapping[str, Any]) -> dict[str, Any]:
        said = {}
        for ours, theirs in towers.items():
            size = arguments[f"{ours}_size"]
            mlp_size = arguments["mlp_size" if ours == "hidden" else f"{ours}_mlp_size"] or 4 * size
            said |= {f"{theirs}hidden_act": arguments["activation"], f"{theirs}intermediate_size": mlp_size}
        text = next(iter(towers.values()))
        return said | {f"{text}eos_token_id": _ARGMAX if arguments["end_id"] is None else arguments["end_id"]}

    return written


_EPSILON, _TEXT, _IMAGES = 1e-5, "text_config.", "vision_config."

LAYOUTS = {
    "clip": Layout(
        *("clip", "CLIP"),
        {
            "embedding_size": ("projection_dim", 512),
            "image_size": (f"{_IMAGES}image_size", 224),
            "patch_size": (f"{_IMAGES}patch_size", 32),
            "vision_size": (f"{_IMAGES}hidden_size", 768),
            "vision_layers": (f"{_IMAGES}num_hidden_layers", 12),
            "vision_heads": (f"{_IMAGES}num_attention_heads", 12),
            "vision_mlp_size": (f"{_IMAGES}intermediate_size", 3072),
            "vocab_size": (f"{_TEXT}vocab_size", 49_408),
            "max_length": (f"{_TEXT}max_position_embeddings", 77),
            "text_size": (f"{_TEXT}hidden_size", 512),
            "text_layers": (f"{_TEXT}num_hidden_layers", 12),
            "text_heads": (f"{_TEXT}num_attention_heads", 8),
            "text_mlp_size": (f"{_TEXT}intermediate_size", 2048),
        },
        {f"{_TEXT}layer_norm_eps": _EPSILON, f"{_IMAGES}layer_norm_eps": _EPSILON, f"{_IMAGES}num_channels": 3},
        *({}, {"Model": {}}, lambda arguments: TRANSFORMERS, _derived(_TEXT, _IMAGES)),
        *(_written(text=_TEXT, vision=_IMAGES), lambda arguments: arguments["patch_size"] is not None),
    ),
    "clip_text_model": Layout(
        *("clip_text", "CLIP"),
        {
            "vocab_size": ("vocab_size", 49_408),
            "hidden_size": ("hidden_size", 512),
            "num_layers": ("num_hidden_layers", 12),
            "num_heads": ("num_attention_heads", 8),
            "mlp_size": ("intermediate_size", 2048),
            "max_length": ("max_position_embeddings", 77),
            "embedding_size": ("projection_dim", 512),
        },
        *({"layer_norm_eps": _EPSILON}, {}, {"TextModel": {"embedding_size": 0}, "TextModelWithProjection": {}}),
        *(lambda arguments: TRANSFORMERS_TEXT, _derived(""), _written(hidden="")),
    ),
}
