"""SRResNet and SRGAN on Open Clip Art: pictures four times as large as what the network is shown.

    deepmodels train --config=experiments/super_resolution_clipart.py:small --workdir=runs/srresnet
    python experiments/data/within.py runs/srresnet/checkpoints/2500 generator runs/generator.npz
    deepmodels train --config=experiments/super_resolution_clipart.py:srgan_small --workdir=runs/srgan

small: a small SRResNet with squared error, on windows of 48 pixels, of which it sees 12; `linear_probe_clipart.py` says
how to get the pictures. Metrics, of whole pictures: psnr, and bicubic_psnr of bicubic interpolation.
srgan_small: with a discriminator and squared error, from the weights of small, and tested on the middle of the
pictures.
full: the paper's network, on whole pictures of 96 pixels, which is for an accelerator.
perceptual: with the squared error of features instead, and a tenth of that of pixels. They are those of MobileNetV2 in
the run of `finetune_clipart.py`, before the second halving and the third.
srgan: with a discriminator, on the same features.

Ours, jax 0.10.2, seed 0: small 20.1 dB, bicubic interpolation 19.5 dB, of 325 test pictures; 21 min 20 s on two cores
that much other work shared, 8 min 47 s of them on a processor. srgan_small has 17.2 dB of the middles of the pictures,
after its first 120 steps 18.4, and bicubic interpolation 18.7: the discriminator brings sharper edges, and a fine grid
over what should be flat; 21 min 56 s, 7 min 56 s on a processor. full and those with features haven't been run.
"""

from ml_collections import ConfigDict

FEATURES = dict(network="eye", layers=("stage0", "stage1"), pixel_weight=0.1)


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, perceptual, srgan, small, srgan_small, or smoke.

    smoke: two steps, on the features of a network that is drawn at random.
    """
    players, alone = "adversarial_super_resolution", "super_resolution"
    generator = dict(channels=32, num_blocks=5)
    critic = dict(critic_channels=16, critic_pairs=3, dense_size=128, image_size=48)
    steps, rate, model, objective = {
        "full": (20_000, 1e-4, dict(name="srresnet"), dict(name=alone)),
        "perceptual": (20_000, 1e-4, dict(name="srresnet"), dict(name=alone, **FEATURES)),
        "srgan": (20_000, 1e-4, dict(name="srgan"), dict(name=players, **FEATURES)),
        "small": (2_500, 1e-3, dict(name="srresnet", **generator), dict(name=alone)),
        "srgan_small": (1_200, 1e-4, dict(name="srgan", **generator, **critic), dict(name=players)),
        "smoke": (
            *(2, 1e-4, dict(name="super_resolution_tiny", image_channels=1)),
            dict(name=alone, network="eye", layers=("conv1",)),
        ),
    }[size]
    data = dict(name="image_folder", path="data/clipart", image_size=96, batch_size=16)
    if size == "smoke":
        data = dict(name="fashion_mnist_embedded", batch_size=8)
    elif size == "srgan_small":
        data["crop_size"] = 48  # its discriminator is of one size
    begin = dict(weights="runs/generator.npz", fresh="discriminator/.*") if size == "srgan_small" else {}
    eye = dict(model=dict(name="lenet_tiny")) if size == "smoke" else dict(weights="runs/finetune")
    windows = dict(random_crop=dict(size=48)) if size.endswith("small") else {}
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            init=begin,
            frozen=dict(eye=eye) if "network" in objective else {},
            objective=objective,
            data=data,
            augment=windows | dict(random_flip=dict()),
            optimizer=dict(
                name="adam", learning_rate=rate, schedule=dict(name="cosine" if size == "small" else "constant")
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
