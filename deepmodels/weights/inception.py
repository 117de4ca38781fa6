"""Where other libraries keep the weights of GoogLeNet and Inception v3.

Their files have auxiliary heads even where a model has none; without heads to fill, those weights carry nothing.
"""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm, dense, flatten_dense


def _unit(source: str, target: str) -> Rules:
    kernel = Rule(f"{source}.conv.weight", f"params/{target}/conv/kernel", CONV)
    return kernel, *batch_norm(f"{source}.bn", f"{target}/norm")


_GOOGLENET_BRANCHES = {
    "branch1": "branch1",
    "branch2.0": "branch2_reduce",
    "branch2.1": "branch2",
    "branch3.0": "branch3_reduce",
    "branch3.1": "branch3",
    "branch4.1": "branch4",
}
_GOOGLENET: Rules = (
    *_unit("conv{n}", "conv{n}"),
    *(
        row
        for letter in "abcde"
        for source, target in _GOOGLENET_BRANCHES.items()
        for row in _unit(f"inception{{stage}}{letter}.{source}", f"inception{{stage}}{letter}/{target}")
    ),
    *_unit("aux{n}.conv", "aux{n}/conv"),
    *dense("aux{n}.fc1", "aux{n}/dense", flatten_dense(128, 4, 4)),
    *dense("aux{n}.fc2", "aux{n}/head"),
    Rule("aux{n}.{*}", None),
)

_V3_STEM = {
    "Conv2d_1a_3x3": "conv_1a",
    "Conv2d_2a_3x3": "conv_2a",
    "Conv2d_2b_3x3": "conv_2b",
    "Conv2d_3b_1x1": "conv_3b",
    "Conv2d_4a_3x3": "conv_4a",
}
_V3_BRANCHES = (
    "branch_pool",
    "branch{h}x{w}",
    *(f"branch{{h}}x{{w}}{double}_{{n}}{half}" for double in ("", "dbl") for half in ("", "a", "b")),
    "branch{h}x{w}x{times}_{n}",
)
_INCEPTION_V3: Rules = (
    *(row for source, target in _V3_STEM.items() for row in _unit(source, target)),
    *(
        row
        for letter in "abcde"
        for branch in _V3_BRANCHES
        for row in _unit(f"Mixed_{{stage}}{letter}.{branch}", f"mixed_{{stage}}{letter}/{branch}")
    ),
    *_unit("AuxLogits.conv{n}", "aux/conv{n}"),
    *dense("AuxLogits.fc", "aux/head"),
    Rule("AuxLogits.{*}", None),
)

TORCHVISION: Rules = (*_GOOGLENET, *_INCEPTION_V3, *dense("fc", "head"))
TIMM: Rules = TORCHVISION  # has Inception v3 only, by the same names
