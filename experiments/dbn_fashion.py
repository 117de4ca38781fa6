"""A deep belief network on Fashion-MNIST, layer by layer, then up and down.

Each size is a run that begins where another ended:

    deepmodels train --config=experiments/dbn_fashion.py:layer0 --workdir=runs/dbn/layer0
    deepmodels train --config=experiments/dbn_fashion.py:layer1 --workdir=runs/dbn/layer1
    python experiments/data/bound.py runs/dbn/layer1/checkpoints/5500
    deepmodels train --config=experiments/dbn_fashion.py:layer2 --workdir=runs/dbn/layer2
    python experiments/data/unroll.py --untie runs/dbn/layer2/checkpoints/5500 runs/dbn/untied.npz
    deepmodels train --config=experiments/dbn_fashion.py:up_down --workdir=runs/dbn/up_down

The network of 2006, 784-500-500-2000 with ten units for the class beside the second 500, on all 60,000 + 10,000; 5,000
of the 60,000 are held out for validation. A layer's run leaves the layers below as they are. The accuracy is that of
the class of least free energy; the samples are drawn with the class clamped, a row for each. bound.py says by how much
the second layer improves the bound of log p.

Ours, jax 0.10.2, seed 0: the first layer alone gives -256.0 nats for a picture, with the second the bound is -244.3
(log Z by annealed importance sampling: 709.8 and 672.5, three standard deviations are 1.6 and 0.1). layer0, layer1
and bound.py took 5 min 12 s, 7 min and 4 min 16 s on two cores that much other work shared.
"""

from ml_collections import ConfigDict


def get_config(size: str = "layer0") -> ConfigDict:
    """Returns the config of one size: layer0, layer1, layer2, up_down, or smoke (two steps)."""
    name, batch, steps, validation = "fashion_mnist", 100, 5_500, 5_000  # 10 epochs
    model, init, objective = dict(name="dbn_2006"), {}, dict(name="contrastive_divergence")
    optimizer = dict(name="momentum", learning_rate=0.05, weight_decay=2e-4)
    if size == "layer0":
        objective["layer"] = 0
        optimizer["freeze"] = "(?!layer0_|layer1_bias).*"
    elif size == "layer1":
        objective["layer"] = 1
        optimizer["freeze"] = "(?!layer1_kernel|layer2_bias).*"
        init = dict(weights="runs/dbn/layer0/checkpoints/5500")
    elif size == "layer2":
        objective |= dict(layer=2, conditional=True)
        optimizer["freeze"] = "(?!layer2_kernel|layer3_bias|label_).*"
        init = dict(weights="runs/dbn/layer1/checkpoints/5500")
    elif size == "up_down":
        model["recognition"] = True
        objective = dict(name="up_down", steps=3)
        optimizer = dict(name="sgd", learning_rate=0.02)
        init = dict(weights="runs/dbn/untied.npz")
    else:
        name, batch, steps, validation = {"smoke": ("fashion_mnist_embedded", 8, 2, 200)}[size]
        model |= dict(hidden_sizes=(8, 6, 5), recognition=True)
        objective = dict(name="up_down", steps=1)
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
