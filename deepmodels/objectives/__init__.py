"""Objectives: pure functions (forward, batch, key, **hyperparameters) -> (loss, (metrics, variables)).

`forward(*inputs, key=key, **named)` runs the model with its parameters bound and returns (outputs, new variables). An
objective calls it first with what the model takes of the batch, and most don't call it again. With `network=name` it
runs a frozen network of the config instead, which may come before. The same function trains and evaluates; metrics are
means over the batch's real examples, or a `Mean` over what else it weighs.
"""

from collections.abc import Callable
from functools import partial

from deepmodels import arguments
from deepmodels.errors import unknown
from deepmodels.objectives.adversarial import adversarial
from deepmodels.objectives.classification import classification, classification_with_auxiliary, perceptron
from deepmodels.objectives.contrastive import contrastive_divergence, up_down
from deepmodels.objectives.ctc import ctc
from deepmodels.objectives.diffusion import diffusion
from deepmodels.objectives.image_text import image_text_contrastive, text_to_image
from deepmodels.objectives.language import (
    language_modelling,
    masked_lm,
    pretraining,
    sequence_to_sequence,
    span_corruption,
    span_extraction,
    token_classification,
)
from deepmodels.objectives.perceptual import style_transfer
from deepmodels.objectives.reconstruction import masked_reconstruction, reconstruction
from deepmodels.objectives.regression import regression
from deepmodels.objectives.segmentation import segmentation
from deepmodels.objectives.translation import (
    adversarial_super_resolution,
    cycle_consistency,
    paired_translation,
    super_resolution,
)
from deepmodels.objectives.variational import discrete_vae, elbo, vector_quantized

OBJECTIVES: dict[str, Callable] = {
    "adversarial": adversarial,
    "adversarial_super_resolution": adversarial_super_resolution,
    "classification": classification,
    "classification_with_auxiliary": classification_with_auxiliary,
    "contrastive_divergence": contrastive_divergence,
    "ctc": ctc,
    "cycle_consistency": cycle_consistency,
    "diffusion": diffusion,
    "discrete_vae": discrete_vae,
    "elbo": elbo,
    "image_text_contrastive": image_text_contrastive,
    "language_modelling": language_modelling,
    "masked_lm": masked_lm,
    "masked_reconstruction": masked_reconstruction,
    "paired_translation": paired_translation,
    "perceptron": perceptron,
    "pretraining": pretraining,
    "reconstruction": reconstruction,
    "regression": regression,
    "segmentation": segmentation,
    "sequence_to_sequence": sequence_to_sequence,
    "span_corruption": span_corruption,
    "span_extraction": span_extraction,
    "style_transfer": style_transfer,
    "super_resolution": super_resolution,
    "text_to_image": text_to_image,
    "token_classification": token_classification,
    "up_down": up_down,
    "vector_quantized": vector_quantized,
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
