"""AlexNet on ImageNet-1k, by the recipe of 2012.

    deepmodels train --config=experiments/alexnet_imagenet.py --workdir=runs/alexnet --config.data.data_dir=FOLDER

The paper's figure: 59.3 % top-1 with one network, ten crops (Krizhevsky, Sutskever & Hinton, 2012, table 2). Ours: not
run yet.

FOLDER is where tensorflow-datasets has prepared imagenet2012. As in sections 4 and 5: the 256x256 centre of each
picture, random crops and flips, the colour shift along principal components; only the mean is subtracted. The learning
rate falls three times to a tenth, at equal distances; the authors did it by hand.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of alexnet_tiny on the embedded pictures)."""
    epoch = 1_281_167 // 128
    steps, model, data, augment = {
        "full": (
            90 * epoch,
            dict(name="alexnet_paper", num_classes=1000),
            dict(
                name="tfds",
                dataset="imagenet2012",
                splits=dict(train="train", test="validation"),
                batch_size=128,
                image_size=256,
                crop_size=227,
                mean=(0.485, 0.456, 0.406),
                std=1 / 255,
            ),
            dict(random_crop=dict(size=227), random_flip=dict(), pca_lighting=dict(std=0.1)),
        ),
        "smoke": (
            2,
            dict(name="alexnet_tiny", num_classes=10),
            dict(name="fashion_mnist_embedded", batch_size=8, crop_size=64, mean=0.286, std=0.353),
            dict(random_crop=dict(size=64, padding=20), random_flip=dict()),
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
                schedule=dict(name="step", boundaries=tuple(n * 90 * epoch // 4 for n in (1, 2, 3)), factor=0.1),
            ),
            every=dict(log=100, evaluate=epoch, checkpoint=epoch),
        )
    )
