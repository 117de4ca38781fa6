"""Inception v3 on ImageNet-1k, by the paper's recipe.

    deepmodels train --config=experiments/inception_v3_imagenet.py --workdir=runs/inc3 --config.data.data_dir=FOLDER

The paper's figure: 78.8 % top-1, one crop (Szegedy et al., 2015, table 3). Ours: not run yet.

FOLDER is where tensorflow-datasets has prepared imagenet2012. From sections 7 and 8: RMSProp with an epsilon of 1, the
learning rate 6 % lower every other epoch, gradients clipped at 2, smoothed labels, averaged parameters, and the batch
of fifty replicas of 32, here in one step. From the authors' code: auxiliary weight, weight decay, the decay of the
average, colour changes. Random boxes are cut from the 342x342 centre of each picture.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of inception_tiny on the embedded pictures)."""
    epoch = 1_281_167 // 1600
    steps, model, data, crop = {
        "full": (
            100 * epoch,
            dict(name="inception_v3", num_classes=1000, aux_heads=True),
            dict(
                name="tfds",
                dataset="imagenet2012",
                splits=dict(train="train", test="validation"),
                batch_size=1600,
                image_size=342,
                crop_size=299,
                mean=0.5,
                std=0.5,
            ),
            299,
        ),
        "smoke": (
            2,
            dict(name="inception_tiny", num_classes=10),
            dict(name="fashion_mnist_embedded", batch_size=8, crop_size=24, mean=0.5, std=0.5),
            24,
        ),
    }[size]
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            precision="bfloat16",
            model=model,
            objective=dict(name="classification_with_auxiliary", auxiliary_weight=0.4, label_smoothing=0.1),
            data=data,
            augment=dict(
                random_resized_crop=dict(size=crop),
                random_flip=dict(),
                color_jitter=dict(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.2),
            ),
            optimizer=dict(
                name="rmsprop",
                learning_rate=0.045,
                decay=0.9,
                eps=1.0,
                weight_decay=4e-5,
                clip_norm=2.0,
                schedule=dict(name="step", boundaries=tuple(range(2 * epoch, 100 * epoch, 2 * epoch)), factor=0.94),
                ema=0.9999,
            ),
            every=dict(log=100, evaluate=epoch, checkpoint=epoch),
        )
    )
