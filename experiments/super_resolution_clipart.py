"""SRResNet and SRGAN on Open Clip Art: pictures four times as large as what the network is shown.

    deepmodels train --config=experiments/super_resolution_clipart.py --workdir=runs/srresnet
    deepmodels train --config=experiments/super_resolution_clipart.py:srgan --workdir=runs/srgan

full: SRResNet with squared error, on pictures of 96 pixels, of which it sees 24; `linear_probe_clipart.py` says how to
get them. Metrics: psnr, and bicubic_psnr of bicubic interpolation.
srgan: with a discriminator.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, srgan, or smoke (two steps)."""
    steps, batch, model, objective = {
        "full": (20_000, 16, dict(name="srresnet"), "super_resolution"),
        "srgan": (20_000, 16, dict(name="srgan"), "adversarial_super_resolution"),
        "smoke": (2, 8, dict(name="super_resolution_tiny", image_channels=1), "super_resolution"),
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
            objective=dict(name=objective),
            data=data | dict(batch_size=batch),
            augment=dict(random_flip=dict()),
            optimizer=dict(name="adam", learning_rate=1e-4),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
