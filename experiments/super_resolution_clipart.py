"""SRResNet and SRGAN on Open Clip Art: pictures four times as large as what the network is shown.

    deepmodels train --config=experiments/super_resolution_clipart.py --workdir=runs/srresnet
    deepmodels train --config=experiments/super_resolution_clipart.py:perceptual --workdir=runs/srresnet-features
    deepmodels train --config=experiments/super_resolution_clipart.py:srgan --workdir=runs/srgan

full: SRResNet with squared error, on pictures of 96 pixels, of which it sees 24; `linear_probe_clipart.py` says how to
get them. Metrics: psnr, and bicubic_psnr of bicubic interpolation.
perceptual: with the squared error of features instead, and a tenth of that of pixels. They are those of MobileNetV2 in
the run of `finetune_clipart.py`, before the second halving and the third.
srgan: with a discriminator, on the same features.
srgan_pixels: with a discriminator, and squared error.

Ours: not run yet.
"""

from ml_collections import ConfigDict

FEATURES = dict(network="eye", layers=("stage0", "stage1"), pixel_weight=0.1)


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, perceptual, srgan, srgan_pixels, or smoke (two steps, random features)."""
    eye = dict(weights="runs/finetune")
    steps, batch, model, objective, frozen = {
        "full": (20_000, 16, dict(name="srresnet"), dict(name="super_resolution"), None),
        "perceptual": (20_000, 16, dict(name="srresnet"), dict(name="super_resolution", **FEATURES), eye),
        "srgan": (20_000, 16, dict(name="srgan"), dict(name="adversarial_super_resolution", **FEATURES), eye),
        "srgan_pixels": (20_000, 16, dict(name="srgan"), dict(name="adversarial_super_resolution"), None),
        "smoke": (
            2,
            8,
            dict(name="super_resolution_tiny", image_channels=1),
            dict(name="super_resolution", network="eye", layers=("conv1",)),
            dict(model=dict(name="lenet_tiny")),
        ),
    }[size]
    data = dict(name="image_folder", path="data/clipart", image_size=96)
    if size == "smoke":
        data = dict(name="fashion_mnist_embedded")
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            frozen=dict(eye=frozen) if frozen else dict(),
            objective=objective,
            data=data | dict(batch_size=batch),
            augment=dict(random_flip=dict()),
            optimizer=dict(name="adam", learning_rate=1e-4),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
