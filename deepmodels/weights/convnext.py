"""Where other libraries keep the weights of ConvNeXt. Ours stacks the blocks of a stage."""

from deepmodels.weights.convert import CONV, DENSE, SAME, Rule, Rules, Transform, conv, dense, layer_norm

_SCALE = Transform(lambda w: w.reshape(w.shape[0]), lambda w: w.reshape(-1, 1, 1))  # torchvision's is (C, 1, 1)


def _block(theirs: str, ours: str, depthwise: str, norm: str, dense1: str, dense2: str) -> Rules:
    return (
        Rule(f"{theirs}.{depthwise}.weight", f"params/{ours}/depthwise_conv/kernel[{{block}}]", CONV),
        Rule(f"{theirs}.{depthwise}.bias", f"params/{ours}/depthwise_conv/bias[{{block}}]"),
        Rule(f"{theirs}.{norm}.weight", f"params/{ours}/norm/scale[{{block}}]"),
        Rule(f"{theirs}.{norm}.bias", f"params/{ours}/norm/bias[{{block}}]"),
        Rule(f"{theirs}.{dense1}.weight", f"params/{ours}/dense1/kernel[{{block}}]", DENSE),
        Rule(f"{theirs}.{dense1}.bias", f"params/{ours}/dense1/bias[{{block}}]"),
        Rule(f"{theirs}.{dense2}.weight", f"params/{ours}/dense2/kernel[{{block}}]", DENSE),
        Rule(f"{theirs}.{dense2}.bias", f"params/{ours}/dense2/bias[{{block}}]"),
    )


def _torchvision_stage(stage: int) -> Rules:
    theirs, ours = f"features.{2 * stage + 1}.{{block}}", f"stage{stage}_blocks"
    return (
        *layer_norm(f"features.{2 * stage}.0", f"stage{stage}_downsample_norm"),
        *conv(f"features.{2 * stage}.1", f"stage{stage}_downsample_conv"),
        *_block(theirs, ours, "block.0", "block.2", "block.3", "block.5"),
        Rule(f"{theirs}.layer_scale", f"params/{ours}/layer_scale[{{block}}]", _SCALE),
    )


TORCHVISION: Rules = (
    *conv("features.0.0", "stem_conv"),
    *layer_norm("features.0.1", "stem_norm"),
    *(row for stage in range(4) for row in _torchvision_stage(stage)),
    *layer_norm("classifier.0", "head_norm"),
    *dense("classifier.2", "head"),
)

_THEIRS, _OURS = "stages.{stage}.blocks.{block}", "stage{stage}_blocks"

TIMM: Rules = (
    *conv("stem.0", "stem_conv"),
    *layer_norm("stem.1", "stem_norm"),
    *layer_norm("stages.{stage}.downsample.0", "stage{stage}_downsample_norm"),
    *conv("stages.{stage}.downsample.1", "stage{stage}_downsample_conv"),
    *_block(_THEIRS, _OURS, "conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
    Rule(f"{_THEIRS}.gamma", f"params/{_OURS}/layer_scale[{{block}}]", SAME),
    *layer_norm("head.norm", "head_norm"),
    *dense("head.fc", "head"),
)
