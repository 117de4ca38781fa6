"""SRResNet and SRGAN on Open Clip Art: pictures four times as large as what the network is shown.

    deepmodels train --config=experiments/super_resolution_clipart.py:small --workdir=runs/srresnet
    deepmodels train --config=experiments/super_resolution_clipart.py:srgan_small --workdir=runs/srgan

small: a small SRResNet with squared error, on windows of 48 pixels, of which it sees 12; `linear_probe_clipart.py` says
how to get the pictures. Metrics, of whole pictures: psnr, and bicubic_psnr of bicubic interpolation.
srgan_small: with a discriminator, and tested on the middle of the pictures.
full, srgan: the paper's networks, on whole pictures of 96 pixels, which is for an accelerator.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, srgan, small, srgan_small, or smoke (two steps)."""
    generator = dict(channels=32, num_blocks=5)
    critic = dict(critic_channels=16, critic_pairs=3, dense_size=128, image_size=48)
    steps, batch, rate, model, objective = {
        "full": (20_000, 16, 1e-4, dict(name="srresnet"), "super_resolution"),
        "srgan": (20_000, 16, 1e-4, dict(name="srgan"), "adversarial_super_resolution"),
        "small": (2_500, 16, 1e-3, dict(name="srresnet", **generator), "super_resolution"),
        "srgan_small": (1_200, 16, 5e-4, dict(name="srgan", **generator, **critic), "adversarial_super_resolution"),
        "smoke": (2, 8, 1e-4, dict(name="super_resolution_tiny", image_channels=1), "super_resolution"),
    }[size]
    data = dict(name="image_folder", path="data/clipart", image_size=96)
    if size == "smoke":
        data = dict(name="fashion_mnist_embedded")
    elif size == "srgan_small":
        data["crop_size"] = 48  # its discriminator is of one size
    windows = dict(random_crop=dict(size=48)) if size.endswith("small") else {}
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name=objective),
            data=data | dict(batch_size=batch),
            augment=windows | dict(random_flip=dict()),
            optimizer=dict(
                name="adam", learning_rate=rate, schedule=dict(name="cosine" if size == "small" else "constant")
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
