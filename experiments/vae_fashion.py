"""Variational autoencoders on Fashion-MNIST.

    deepmodels train --config=experiments/vae_fashion.py --workdir=runs/vae
    deepmodels train --config=experiments/vae_fashion.py:importance_weighted --workdir=runs/iwae
    deepmodels train --config=experiments/vae_fashion.py:conv --workdir=runs/conv-vae

full: the network of the paper, 784-500-20, on all 60,000 + 10,000; 5,000 of the 60,000 are held out for validation.
Pixels are drawn to be 0 or 1 at each step, so that the bounds are of binary pictures.
importance_weighted: the same with the bound of 5 samples.
conv: convolutions.

Ours, on two CPU cores that much other work shared (jax 0.10.2, seed 0): full ends at a bound of 243.2 nats for a test
picture, 0.448 bits for a pixel, of which 20.1 nats are the divergence, in 22 min 43 s, 3 min 4 s of it on a processor.
The other sizes haven't been run.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, importance_weighted, conv, or smoke (two steps)."""
    name, batch, steps, validation, model, samples = {
        "full": ("fashion_mnist", 100, 11_000, 5_000, dict(name="vae"), None),  # 20 epochs
        "importance_weighted": ("fashion_mnist", 100, 11_000, 5_000, dict(name="vae"), 5),
        "conv": (
            *("fashion_mnist", 100, 11_000, 5_000),
            dict(name="conv_vae", channels=(32, 64), image_shape=(28, 28, 1), latent_size=20),
            None,
        ),
        "smoke": ("fashion_mnist_embedded", 8, 2, 200, dict(name="vae", hidden_sizes=(16,), latent_size=4), None),
    }[size]
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="elbo", binarize=True, samples=samples),
            data=dict(name=name, batch_size=batch, validation_size=validation),
            optimizer=dict(name="adam", learning_rate=1e-3, schedule=dict(name="cosine")),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
