"""A denoising autoencoder on Fashion-MNIST.

    deepmodels train --config=experiments/denoising_fashion.py --workdir=runs/denoising
    deepmodels train --config=experiments/denoising_fashion.py:gaussian --workdir=runs/gaussian

full: the tied layer of 1,000 units of Vincent et al. (2008); a quarter of the pixels is 0 in what it sees.
gaussian: a deeper one, of noise with a standard deviation of 0.2.
Both on all 60,000 + 10,000, of which 5,000 are held out for validation. Metrics: psnr of what it gives back, and
corrupted_psnr of what it saw.

Ours, on two CPU cores that much other work shared (jax 0.10.2, seed 0): full sees test pictures of 13.7 dB and gives
back 20.2 dB, in 6 min 34 s, 2 min 5 s of it on a processor. gaussian hasn't been run.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, gaussian, or smoke (two steps)."""
    name, batch, steps, validation, model, corruption, amount = {
        "full": ("fashion_mnist", 128, 4_300, 5_000, dict(name="denoising_autoencoder"), "masking", 0.25),  # 10 epochs
        "gaussian": (
            *("fashion_mnist", 128, 4_300, 5_000),
            dict(name="autoencoder", hidden_sizes=(512,), code_size=128),
            *("gaussian", 0.2),
        ),
        "smoke": (
            *("fashion_mnist_embedded", 8, 2, 200),
            dict(name="denoising_autoencoder", code_size=16),
            *("salt_and_pepper", 0.1),
        ),
    }[size]
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="reconstruction", corruption=corruption, amount=amount),
            data=dict(name=name, batch_size=batch, validation_size=validation),
            optimizer=dict(name="adam", learning_rate=1e-3, schedule=dict(name="cosine")),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
