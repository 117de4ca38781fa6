"""Objectives: pure functions (forward, batch, key, **hyperparameters) -> (loss, (metrics, variables)).

`forward(*inputs, key=key, **named)` runs the model with its parameters bound and returns (outputs, new variables). An
objective calls it once, with what the model takes of the batch. The same function trains and evaluates; metrics are
means over the batch's real examples, or a `Mean` over what else it weighs.
"""

from collections.abc import Callable
from functools import partial

from deepmodels import arguments
from deepmodels.errors import unknown
from deepmodels.objectives.classification import classification, classification_with_auxiliary, perceptron
from deepmodels.objectives.ctc import ctc
from deepmodels.objectives.language import (
    language_modelling,
    masked_lm,
    pretraining,
    sequence_to_sequence,
    span_corruption,
    span_extraction,
    token_classification,
)
from deepmodels.objectives.regression import regression
from deepmodels.objectives.segmentation import segmentation

OBJECTIVES: dict[str, Callable] = {
    "classification": classification,
    "classification_with_auxiliary": classification_with_auxiliary,
    "ctc": ctc,
    "language_modelling": language_modelling,
    "masked_lm": masked_lm,
    "perceptron": perceptron,
    "pretraining": pretraining,
    "regression": regression,
    "segmentation": segmentation,
    "sequence_to_sequence": sequence_to_sequence,
    "span_corruption": span_corruption,
    "span_extraction": span_extraction,
    "token_classification": token_classification,
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
