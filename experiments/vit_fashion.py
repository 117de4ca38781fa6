"""A small vision transformer on Fashion-MNIST.

    deepmodels train --config=experiments/vit_fashion.py --workdir=runs/vit
    deepmodels train --config=experiments/vit_fashion.py:full --workdir=runs/vit-full

embedded: the 2,000 + 500 pictures that ship inside the package; 200 of the 2,000 are held out for validation.
full: all 60,000 + 10,000, from Debian's package dataset-fashion-mnist; 5,000 of the 60,000 are held out.

The transformer sees a picture as 49 patches of 4x4 pixels; its layers are 64 wide, four of them or six.

Ours, jax 0.10.2, seed 0: embedded has 71.0 % of the 500 test pictures right, after 2 min 42 s on a processor. full
hasn't been run.
"""

from ml_collections import ConfigDict


def get_config(size: str = "embedded") -> ConfigDict:
    """Returns the config of one size: embedded, full, or smoke (two steps)."""
    name, batch, steps, validation, layers = {
        "embedded": ("fashion_mnist_embedded", 64, 600, 200, 4),
        "full": ("fashion_mnist", 128, 1_720, 5_000, 6),  # 4 epochs
        "smoke": ("fashion_mnist_embedded", 8, 2, 200, 1),
    }[size]
    every = max(1, steps // 6)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="vit_tiny",
                image_size=28,
                patch_size=4,
                hidden_size=64,
                num_layers=layers,
                num_heads=4,
                mlp_size=128,
                num_classes=10,
            ),
            objective=dict(name="classification"),
            data=dict(name=name, batch_size=batch, validation_size=validation, mean=(0.2860,), std=(0.3530,)),
            augment=dict(random_flip=dict(), random_crop=dict(padding=2)),
            optimizer=dict(
                name="adamw",
                learning_rate=2e-3,
                weight_decay=0.05,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=steps // 10),
            ),
            every=dict(log=min(20, every), evaluate=every, checkpoint=every),
        )
    )
