"""Where other libraries keep the weights of the fully convolutional networks."""

from deepmodels.weights import resnet
from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, conv

BACKBONE: Rules = tuple(
    Rule(f"backbone.{source}", target and target.replace("/", "/backbone/", 1), transform)
    for source, target, transform in resnet.TORCHVISION
)


def _head(source: str, target: str) -> Rules:
    return (
        Rule(f"{source}.0.weight", f"params/{target}/conv/kernel", CONV),
        *batch_norm(f"{source}.1", f"{target}/norm"),
        *conv(f"{source}.4", f"{target}/classifier"),
    )


# torchvision's files have an auxiliary head even where a model has none
AUXILIARY: Rules = (*_head("aux_classifier", "auxiliary"), Rule("aux_classifier.{*}", None))

TORCHVISION: Rules = (*BACKBONE, *_head("classifier", "head"), *AUXILIARY)
