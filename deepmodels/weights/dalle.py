"""DALL-E's decoder of torch's layers, as parity/generative.py has it: its own weights were never published."""

from deepmodels.weights.convert import DENSE, Rule, Rules, attention, dense, layer_norm

_LAYER = "layers[{layer}]"
_EMBEDDINGS = {
    "word": "token_embed",
    "image": "image_embed",
    "padding": "padding_embed",
    "position": "position_embed",
    "row": "row_embed",
    "column": "column_embed",
}

TORCH: Rules = (
    *(Rule(f"{theirs}.weight", f"params/{ours}/embedding") for theirs, ours in _EMBEDDINGS.items()),
    *layer_norm("layers.{layer}.norm1", f"{_LAYER}/norm1"),
    *attention("layers.{layer}.self_attn", f"{_LAYER}/attention"),
    *layer_norm("layers.{layer}.norm2", f"{_LAYER}/norm2"),
    *dense("layers.{layer}.linear1", f"{_LAYER}/dense1"),
    *dense("layers.{layer}.linear2", f"{_LAYER}/dense2"),
    *layer_norm("norm", "norm"),
    Rule("words.weight", "params/text_head/kernel", DENSE),
    Rule("codes.weight", "params/image_head/kernel", DENSE),
)
