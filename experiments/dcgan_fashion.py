"""A DCGAN on Fashion-MNIST.

    deepmodels train --config=experiments/dcgan_fashion.py --workdir=runs/dcgan
    deepmodels train --config=experiments/dcgan_fashion.py:wgan_gp --workdir=runs/wgan
    deepmodels train --config=experiments/dcgan_fashion.py:small_data --workdir=runs/small-data
    deepmodels train --config=experiments/dcgan_fashion.py:small_data_plain --workdir=runs/small-data-plain

full: the networks of DCGAN for pictures of 28 x 28, on all 60,000.
wgan_gp: the same without batch normalisation in the critic, with Wasserstein's loss and the gradient penalty; the
critic moves five times for each move of the generator.
small_data: half the channels, on the 2,000 pictures inside the package, with adaptive augmentation of what the
discriminator sees. small_data_plain: without. Of a discriminator that learns its pictures by heart, real_sign goes up
while test/real_sign, that of pictures it doesn't know, goes down.

Samples are drawn at every evaluation, into the run's folder `pictures`.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, wgan_gp, small_data, small_data_plain, or smoke (two steps)."""
    name, batch, steps, critic_steps, channels = {
        "full": ("fashion_mnist", 128, 4_690, 1, 64),  # 10 epochs
        "wgan_gp": ("fashion_mnist", 5 * 64, 4_690, 5, 64),
        "small_data": ("fashion_mnist_embedded", 64, 3_000, 1, 32),  # 96 epochs
        "small_data_plain": ("fashion_mnist_embedded", 64, 3_000, 1, 32),
        "smoke": ("fashion_mnist_embedded", 8, 2, 1, 4),
    }[size]
    wasserstein = size == "wgan_gp"
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            critic_steps=critic_steps,
            adaptive_augment=dict(images=50_000) if size == "small_data" else None,
            model=dict(
                name="wgan_gp" if wasserstein else "dcgan",
                channels=channels,
                critic_channels=channels,
                image_shape=(28, 28, 1),
            ),
            objective=dict(
                name="adversarial",
                loss="wasserstein" if wasserstein else "non_saturating",
                gradient_penalty=10.0 if wasserstein else 0.0,
            ),
            data=dict(name=name, batch_size=batch, mean=0.5, std=0.5),  # pixels from -1 to 1
            optimizer=dict(
                name="adam",
                learning_rate=1e-4 if wasserstein else 2e-4,
                b1=0.0 if wasserstein else 0.5,
                b2=0.9 if wasserstein else 0.999,
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
