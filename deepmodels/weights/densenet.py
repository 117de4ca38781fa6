"""Where other libraries keep the weights of the densely connected networks."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, dense

_LAYER, _OURS = "features.denseblock{stage+1}.denselayer{layer+1}", "stage{stage}_layer{layer}"

TORCHVISION: Rules = (
    Rule("features.conv0.weight", "params/stem_conv/kernel", CONV),
    *batch_norm("features.norm0", "stem_norm"),
    Rule(f"{_LAYER}.conv{{n}}.weight", f"params/{_OURS}/conv{{n}}/kernel", CONV),
    *batch_norm(f"{_LAYER}.norm{{n}}", f"{_OURS}/norm{{n}}"),
    Rule("features.transition{stage+1}.conv.weight", "params/stage{stage}_transition/conv/kernel", CONV),
    *batch_norm("features.transition{stage+1}.norm", "stage{stage}_transition/norm"),
    *batch_norm("features.norm5", "head_norm"),
    *dense("classifier", "head"),
    # the files that circulate are older than these names
    Rule(f"{_LAYER}.conv.{{n}}.weight", f"params/{_OURS}/conv{{n}}/kernel", CONV),
    *batch_norm(f"{_LAYER}.norm.{{n}}", f"{_OURS}/norm{{n}}"),
)
TIMM: Rules = TORCHVISION
