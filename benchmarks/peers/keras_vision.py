"""The peer: keras.applications under JAX, whose training step Keras compiles, or its jitted call."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import sys
from pathlib import Path

import jax
import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import turns

NAMES = {"resnet50": "ResNet50", "mobilenet_v2": "MobileNetV2", "inception_v3": "InceptionV3"}


def start(side: dict):
    """Returns (step, facts) for a subject's fields, "task", "batch" and "device"."""
    if side["device"] == "gpu":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = getattr(keras.applications, NAMES[side["model"]])(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(side["batch"], *model.input_shape[1:])).astype(np.float32)
    labels = rng.integers(0, 1000, side["batch"]).astype(np.int32)
    facts = {"version": f"keras {keras.__version__} jax {jax.__version__}"}
    if side["device"] == "gpu":
        facts["peak bytes"] = lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    if side["task"] == "infer":
        values = [
            [v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        call = jax.jit(lambda trained, others, images: model.stateless_call(trained, others, images)[0])
        images = jax.device_put(images)
        return lambda: jax.block_until_ready(call(*values, images)), facts
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return lambda: model.train_on_batch(images, labels), facts


if __name__ == "__main__":
    turns.serve(start)
