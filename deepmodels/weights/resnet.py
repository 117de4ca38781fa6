"""Where other libraries keep the weights of the residual networks."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, dense

_BLOCK, _OURS = "layer{stage+1}.{block}", "stage{stage}_block{block}"

TORCHVISION: Rules = (
    Rule("conv1.weight", "params/stem_conv/kernel", CONV),
    *batch_norm("bn1", "stem_norm"),
    Rule(f"{_BLOCK}.conv{{n}}.weight", f"params/{_OURS}/conv{{n}}/kernel", CONV),
    *batch_norm(f"{_BLOCK}.bn{{n}}", f"{_OURS}/norm{{n}}"),
    Rule(f"{_BLOCK}.downsample.0.weight", f"params/{_OURS}/conv_skip/kernel", CONV),
    *batch_norm(f"{_BLOCK}.downsample.1", f"{_OURS}/norm_skip"),
    *dense("fc", "head"),
)
TIMM: Rules = TORCHVISION  # by the same names
