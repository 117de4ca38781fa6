"""Where PyTorch's example of fast style transfer keeps its weights."""

from deepmodels.weights.convert import Rule, Rules, conv, layer_norm


def _unit(source: str, norm: str, target: str) -> Rules:
    return *conv(f"{source}.conv2d", target), *layer_norm(norm, f"{target}_norm")


_PLACES = ((1, "first"), (2, "down0"), (3, "down1"))

FAST_STYLE: Rules = (
    *(row for i, name in _PLACES for row in _unit(f"conv{i}", f"in{i}", name)),
    *_unit("res{block+1}.conv1", "res{block+1}.in1", "block{block}_1"),
    *_unit("res{block+1}.conv2", "res{block+1}.in2", "block{block}_2"),
    *_unit("deconv1", "in4", "up1"),
    *_unit("deconv2", "in5", "up0"),
    *conv("deconv3.conv2d", "last"),
    Rule("{*}.running_mean", None),  # in old files; nothing uses them
    Rule("{*}.running_var", None),
)
