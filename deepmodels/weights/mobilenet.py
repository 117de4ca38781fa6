"""Where other libraries keep the weights of MobileNetV2."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, dense

_SIZES = (1, 2, 3, 4, 3, 3, 1)  # blocks of the paper's stages; torchvision numbers them through
_BLOCKS = [(stage, block) for stage, size in enumerate(_SIZES) for block in range(size)]


def _part(conv: str, norm: str, target: str) -> Rules:
    return Rule(f"{conv}.weight", f"params/{target}_conv/kernel", CONV), *batch_norm(norm, f"{target}_norm")


def _block(theirs: str, ours: str, expands: bool) -> Rules:
    rows = _part(f"{theirs}.0.0", f"{theirs}.0.1", f"{ours}/expand") if expands else ()
    k = len(rows) > 0
    return (
        *rows,
        *_part(f"{theirs}.{k:d}.0", f"{theirs}.{k:d}.1", f"{ours}/depthwise"),
        *_part(f"{theirs}.{k + 1}", f"{theirs}.{k + 2}", f"{ours}/project"),
    )


TORCHVISION: Rules = (
    *_part("features.0.0", "features.0.1", "stem"),
    *(
        row
        for number, (stage, block) in enumerate(_BLOCKS, 1)
        for row in _block(f"features.{number}.conv", f"stage{stage}_block{block}", expands=stage > 0)
    ),
    *_part("features.18.0", "features.18.1", "final"),
    *dense("classifier.1", "head"),
)

_THEIRS, _OURS = "blocks.{stage}.{block}", "stage{stage}_block{block}"

TIMM: Rules = (
    *_part("conv_stem", "bn1", "stem"),
    *_part("blocks.0.{block}.conv_dw", "blocks.0.{block}.bn1", "stage0_block{block}/depthwise"),
    *_part("blocks.0.{block}.conv_pw", "blocks.0.{block}.bn2", "stage0_block{block}/project"),
    *_part(f"{_THEIRS}.conv_pw", f"{_THEIRS}.bn1", f"{_OURS}/expand"),
    *_part(f"{_THEIRS}.conv_dw", f"{_THEIRS}.bn2", f"{_OURS}/depthwise"),
    *_part(f"{_THEIRS}.conv_pwl", f"{_THEIRS}.bn3", f"{_OURS}/project"),
    *_part("conv_head", "bn2", "final"),
    *dense("classifier", "head"),
)
