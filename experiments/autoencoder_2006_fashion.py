"""The deep autoencoder of 2006 on Fashion-MNIST: Boltzmann machines one by one, unrolled, then backpropagation.

    for layer in 0 1 2 3; do
      deepmodels train --config=experiments/autoencoder_2006_fashion.py:layer$layer --workdir=runs/deep/layer$layer
    done
    python experiments/data/unroll.py runs/deep/layer3/checkpoints/5500 runs/deep/unrolled.npz
    deepmodels train --config=experiments/autoencoder_2006_fashion.py --workdir=runs/deep/full
    deepmodels train --config=experiments/autoencoder_2006_fashion.py:random --workdir=runs/deep/random

784-1000-500-250-30 and back, on all 60,000 + 10,000; 5,000 of the 60,000 are held out for validation. random: the same
without the machines.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: layer0 to layer3, full, random, or smoke (two steps)."""
    name, batch, steps, validation = "fashion_mnist", 100, 5_500, 5_000  # 10 epochs
    model, init, objective = dict(name="autoencoder_2006"), {}, dict(name="reconstruction")
    optimizer = dict(name="adam", learning_rate=1e-3, schedule=dict(name="cosine"))
    if size.startswith("layer"):
        layer = int(size.removeprefix("layer"))
        model = dict(name="dbn_2006", hidden_sizes=(1000, 500, 250, 30), num_classes=0, code_units="gaussian")
        objective = dict(name="contrastive_divergence", layer=layer)
        below = "layer0_bias|" if layer == 0 else ""
        optimizer = dict(
            name="momentum",
            learning_rate=1e-3 if layer == 3 else 0.05,  # Gaussian units want a smaller one
            weight_decay=2e-4,
            freeze=f"(?!{below}layer{layer}_kernel|layer{layer + 1}_bias).*",
        )
        if layer:
            init = dict(weights=f"runs/deep/layer{layer - 1}/checkpoints/5500")
    elif size == "full":
        init = dict(weights="runs/deep/unrolled.npz")
    elif size == "smoke":
        name, batch, steps, validation = "fashion_mnist_embedded", 8, 2, 200
        model |= dict(hidden_sizes=(16, 8), code_size=4)
    elif size != "random":
        raise KeyError(size)
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=objective,
            init=init,
            data=dict(name=name, batch_size=batch, validation_size=validation),
            optimizer=optimizer,
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
