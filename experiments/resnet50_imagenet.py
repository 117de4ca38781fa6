"""ResNet-50 on ImageNet-1k, by torchvision's reference recipe of 90 epochs.

    deepmodels train --config=experiments/resnet50_imagenet.py --workdir=runs/resnet50 --config.data.data_dir=FOLDER

torchvision's figure for this recipe: 76.13 % top-1, one crop. The paper's: 77.15 %, ten crops (He et al., 2015, table
3). Ours: not run yet.

FOLDER is where tensorflow-datasets has prepared imagenet2012. One difference: random boxes are cut from the 256x256
centre of each picture, as the host stores batches of one shape, not from all of it.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps of resnet_tiny on the embedded pictures)."""
    epoch = 1_281_167 // 256
    steps, model, data, crop = {
        "full": (
            90 * epoch,
            dict(name="resnet50", num_classes=1000),
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
            224,
        ),
        "smoke": (
            2,
            dict(name="resnet_tiny", num_classes=10),
            dict(name="fashion_mnist_embedded", batch_size=8, crop_size=24, mean=0.286, std=0.353),
            24,
        ),
    }[size]
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            precision="bfloat16",
            model=model,
            objective=dict(name="classification"),
            data=data,
            augment=dict(random_resized_crop=dict(size=crop), random_flip=dict()),
            optimizer=dict(
                name="momentum",
                learning_rate=0.1,
                momentum=0.9,
                weight_decay=1e-4,
                decay_pattern=".*",  # norms and biases too, as there
                schedule=dict(name="step", boundaries=(30 * epoch, 60 * epoch), factor=0.1),
            ),
            every=dict(log=100, evaluate=epoch, checkpoint=epoch),
        )
    )
