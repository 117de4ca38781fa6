"""Open Clip Art in the style of one picture, by one pass of a network: fast style transfer.

    python experiments/data/strokes.py data/strokes.png
    deepmodels train --config=experiments/style_clipart.py --workdir=runs/style

full: a network half as wide as that of the paper's supplement, on pictures of 96 pixels; `linear_probe_clipart.py` says
how to get them and the weights of MobileNetV2, through which the loss looks where the paper has VGG-16.

Pictures before and after are in the run's folder `pictures`, of the same eight at every evaluation.

Ours: not run yet.
"""

from ml_collections import ConfigDict

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps, through a network as it is drawn at random)."""
    steps, batch, model, eye, layers, data = {
        "full": (
            2_000,
            4,
            dict(name="fast_style", channels=16),
            dict(model=dict(name="mobilenet_v2"), weights="data/mobilenet_v2-b0353104.pth"),
            dict(content_layers=("stage1",), style_layers=("stem", "stage0", "stage1", "stage2")),
            dict(name="image_folder", path="data/clipart", image_size=96, style="data/strokes.png", mean=MEAN, std=STD),
        ),
        "smoke": (
            2,
            8,
            dict(name="fast_style_tiny", image_channels=1),
            dict(model=dict(name="lenet_tiny")),
            dict(content_layers=("conv2",), style_layers=("conv1", "conv2")),
            dict(name="fashion_mnist_embedded", style=0, mean=0.286, std=0.353),
        ),
    }[size]
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            frozen=dict(eye=eye),
            objective=dict(
                name="style_transfer",
                network="eye",
                **layers,
                content_weight=1.0,
                style_weight=10.0,
                variation_weight=0.01,
            ),
            data=data | dict(batch_size=batch),
            augment=dict(random_flip=dict()),
            optimizer=dict(name="adam", learning_rate=1e-3),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
