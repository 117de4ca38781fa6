"""GoogLeNet on ImageNet-1k, by the paper's recipe as far as it is told.

    deepmodels train --config=experiments/googlenet_imagenet.py --workdir=runs/googlenet --config.data.data_dir=FOLDER

The paper's figure: 10.07 % top-5 error with one network and one crop (Szegedy et al., 2014, table 3). Ours: not run
yet.

FOLDER is where tensorflow-datasets has prepared imagenet2012. From sections 5 and 6: auxiliary heads of weight 0.3,
boxes of 8 to 100 % of the area (here of the 256x256 centre of each picture), colour changes, momentum of 0.9, the
learning rate 4 % lower every eight epochs, averaged parameters. Not told there, so ours: batch, first learning rate,
epochs, weight decay, and the decay of the average.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of inception_tiny on the embedded pictures)."""
    epoch = 1_281_167 // 256
    steps, model, data, augment = {
        "full": (
            120 * epoch,
            dict(name="googlenet_paper", num_classes=1000, aux_heads=True),
            dict(
                name="tfds",
                dataset="imagenet2012",
                splits=dict(train="train", test="validation"),
                batch_size=256,
                image_size=256,
                crop_size=224,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
            ),
            dict(
                random_resized_crop=dict(size=224),
                random_flip=dict(),
                color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4),
            ),
        ),
        "smoke": (
            2,
            dict(name="inception_tiny", num_classes=10),
            dict(name="fashion_mnist_embedded", batch_size=8, crop_size=28, mean=0.286, std=0.353),
            dict(random_resized_crop=dict(size=28), random_flip=dict(), color_jitter=dict(brightness=0.4)),
        ),
    }[size]
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="classification_with_auxiliary", auxiliary_weight=0.3),
            data=data,
            augment=augment,
            optimizer=dict(
                name="momentum",
                learning_rate=0.01,
                momentum=0.9,
                weight_decay=2e-4,
                schedule=dict(name="step", boundaries=tuple(range(8 * epoch, 120 * epoch, 8 * epoch)), factor=0.96),
                ema=0.9999,
            ),
            every=dict(log=100, evaluate=epoch, checkpoint=epoch),
        )
    )
