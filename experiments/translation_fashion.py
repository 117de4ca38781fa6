"""CycleGAN between two classes of Fashion-MNIST, and pix2pix that fills holes in its pictures.

    deepmodels train --config=experiments/translation_fashion.py --workdir=runs/cyclegan
    deepmodels train --config=experiments/translation_fashion.py:pix2pix --workdir=runs/pix2pix

full: CycleGAN between sneakers (7) and ankle boots (9), 6,000 pictures of each, none of which has a partner.
pix2pix: on all 60,000 + 10,000, a square of 14 x 14 pixels in the middle of each filled in.
large: CycleGAN with twice the channels, which is for an accelerator.
All are small forms of the networks for pictures of 256 pixels, `cyclegan` and `pix2pix`.

Ours, jax 0.10.2, seed 0: full in 50 min 10 s on two cores that much other work shared, 11 min 13 s of them on a
processor: cycle loss 0.249 on the test split, the sum of both ways. Sneakers become boots, some with heels that no
sneaker has, most of them grainy or torn. The others haven't been run.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, pix2pix, large, or smoke (two steps)."""
    name, batch, steps, channels, blocks = {
        "full": ("fashion_mnist", 4, 3_000, 16, 3),
        "pix2pix": ("fashion_mnist", 16, 6_000, 16, None),
        "large": ("fashion_mnist", 4, 20_000, 32, 4),
        "smoke": ("fashion_mnist_embedded", 8, 2, 4, 1),
    }[size]
    if size == "pix2pix":
        model = dict(name="pix2pix", num_downs=2, channels=channels, critic_channels=channels, image_channels=1)
        objective, data = dict(name="paired_translation", source="hole"), {}
    else:
        model = dict(
            name="cyclegan",
            channels=channels,
            num_blocks=blocks,
            critic_channels=channels,
            image_size=28,
            image_channels=1,
        )
        objective, data = dict(name="cycle_consistency"), dict(unpaired=(7, 9))
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=objective,
            data=dict(name=name, batch_size=batch, mean=0.5, std=0.5, **data),  # pixels from -1 to 1
            optimizer=dict(name="adam", learning_rate=2e-4, b1=0.5),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
