"""VGG-16 on ImageNet-1k, by the paper's recipe at a single scale.

    deepmodels train --config=experiments/vgg16_imagenet.py --workdir=runs/vgg16 --config.data.data_dir=FOLDER

The paper's figure: 73.0 % top-1 for configuration D with S = 256, the whole picture evaluated (Simonyan & Zisserman,
2014, table 3). Ours: not run yet.

FOLDER is where tensorflow-datasets has prepared imagenet2012. Differences: weights start as in He et al. (2015) and not
from a trained shallow network, channels are divided by their deviation, and one 224x224 crop is evaluated. The learning
rate falls three times to a tenth within the paper's 370,000 steps, at equal distances; the authors did it by hand.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of vgg_tiny on the embedded pictures)."""
    epoch = 1_281_167 // 256
    steps, model, data, augment = {
        "full": (
            370_000,
            dict(name="vgg16", num_classes=1000),
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
            dict(random_crop=dict(size=224), random_flip=dict(), pca_lighting=dict(std=0.1)),
        ),
        "smoke": (
            2,
            dict(name="vgg_tiny", num_classes=10),
            dict(name="fashion_mnist_embedded", batch_size=8, crop_size=24, mean=0.286, std=0.353),
            dict(random_crop=dict(size=24), random_flip=dict()),
        ),
    }[size]
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="classification"),
            data=data,
            augment=augment,
            optimizer=dict(
                name="momentum",
                learning_rate=0.01,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=dict(name="step", boundaries=(92_500, 185_000, 277_500), factor=0.1),
            ),
            every=dict(log=100, evaluate=epoch, checkpoint=epoch),
        )
    )
