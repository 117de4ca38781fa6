"""A VQ-VAE on Fashion-MNIST, and the discrete VAE of DALL-E on Open Clip Art.

    deepmodels train --config=experiments/vq_vae_fashion.py --workdir=runs/vq-vae
    deepmodels train --config=experiments/vq_vae_fashion.py:dalle_small --workdir=runs/dvae

full: 7 x 7 codes of 128 for each picture, on all 60,000 + 10,000; 5,000 of the 60,000 are held out for validation.
dalle_small: DALL-E's with a tenth of its channels, on pictures of 48 pixels; `linear_probe_clipart.py` says how to get
them.
dalle: with a quarter of them, on 96 pixels, which is for an accelerator.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, dalle_small, dalle, or smoke (two steps)."""
    steps, model, objective, data = {
        "full": (
            6_000,  # 7 epochs
            dict(name="vq_vae", hidden_size=32, codebook_size=128, latent_size=16, channels=1),
            dict(name="vector_quantized"),
            dict(name="fashion_mnist", batch_size=64, validation_size=5_000),
        ),
        "dalle_small": (
            2_500,
            dict(name="dalle_dvae", hidden_size=24, first_size=24, codebook_size=256),
            dict(name="discrete_vae", beta=0.1, temperature=0.5),
            dict(name="image_folder", path="data/clipart", image_size=48, batch_size=16),
        ),
        "dalle": (
            10_000,
            dict(name="dalle_dvae", hidden_size=64, first_size=32, codebook_size=512),
            dict(name="discrete_vae", beta=0.1, temperature=0.5),
            dict(name="image_folder", path="data/clipart", image_size=96, batch_size=16),
        ),
        "smoke": (
            2,
            dict(name="vq_vae_tiny", channels=1),
            dict(name="vector_quantized"),
            dict(name="fashion_mnist_embedded", batch_size=8, validation_size=200),
        ),
    }[size]
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=objective,
            data=data,
            optimizer=dict(name="adam", learning_rate=3e-4 if size == "dalle" else 1e-3),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
