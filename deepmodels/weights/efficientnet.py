"""Where other libraries keep the weights of EfficientNet."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, conv, dense


def _part(theirs: str, ours: str) -> Rules:
    return Rule(f"{theirs}.0.weight", f"params/{ours}_conv/kernel", CONV), *batch_norm(f"{theirs}.1", f"{ours}_norm")


def _block(theirs: str, ours: str, first: int) -> Rules:
    return (
        *_part(f"{theirs}.block.{first}", f"{ours}/depthwise"),
        *conv(f"{theirs}.block.{first + 1}.fc1", f"{ours}/squeeze_excitation/reduce"),
        *conv(f"{theirs}.block.{first + 1}.fc2", f"{ours}/squeeze_excitation/expand"),
        *_part(f"{theirs}.block.{first + 2}", f"{ours}/project"),
    )


_THEIRS, _OURS = "features.{stage+1}.{block}", "stage{stage}_block{block}"

TORCHVISION: Rules = (
    *_part("features.0", "stem"),
    *_block("features.1.{block}", "stage0_block{block}", first=0),  # the first stage doesn't expand
    *_part(f"{_THEIRS}.block.0", f"{_OURS}/expand"),
    *_block(_THEIRS, _OURS, first=1),
    *_part("features.8", "final"),
    *dense("classifier.1", "head"),
)
