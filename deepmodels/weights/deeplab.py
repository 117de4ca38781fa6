"""Where other libraries keep the weights of DeepLabV3."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, conv
from deepmodels.weights.fcn import AUXILIARY, BACKBONE


def _unit(source: str, target: str, suffix: str) -> Rules:
    index = int(source[-1])
    return (
        Rule(f"{source}.weight", f"params/{target}/conv{suffix}/kernel", CONV),
        *batch_norm(f"{source[:-1]}{index + 1}", f"{target}/norm{suffix}"),
    )


TORCHVISION: Rules = (
    *BACKBONE,
    # the pooling branch comes after the convolutions, and its own convolution after the pooling
    *_unit("classifier.0.convs.4.1", "head/pyramid", "_pool"),
    *_unit("classifier.0.convs.{n}.0", "head/pyramid", "{n}"),
    Rule("classifier.0.project.0.weight", "params/head/pyramid/project/kernel", CONV),
    *batch_norm("classifier.0.project.1", "head/pyramid/norm_project"),
    Rule("classifier.1.weight", "params/head/conv/kernel", CONV),
    *batch_norm("classifier.2", "head/norm"),
    *conv("classifier.4", "head/classifier"),
    *AUXILIARY,
)
