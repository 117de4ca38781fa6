"""Objectives: pure functions (forward, batch, key, **hyperparameters) -> (loss, (metrics, variables)).

`forward(*inputs, key=key)` runs the model with its parameters bound and returns (outputs, new variables). The same
function trains and evaluates; metrics are means over the batch's real examples.
"""

from collections.abc import Callable
from functools import partial

from deepmodels import arguments
from deepmodels.errors import unknown
from deepmodels.objectives.classification import classification, classification_with_auxiliary, perceptron
from deepmodels.objectives.segmentation import segmentation

OBJECTIVES: dict[str, Callable] = {
    "classification": classification,
    "classification_with_auxiliary": classification_with_auxiliary,
    "perceptron": perceptron,
    "segmentation": segmentation,
}


def create(name: str, **hyperparameters) -> Callable:
    """Returns the objective of that name with its hyperparameters bound.

    Raises:
      ConfigError: the name or a hyperparameter is unknown; the message names the nearest.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    function = OBJECTIVES[name]
    arguments.check(f"objective {name!r}", function, hyperparameters, given=("forward", "batch", "key"))
    return partial(function, **hyperparameters)
