"""A small masked autoencoder on Fashion-MNIST: three quarters of the patches of 4x4 pixels are hidden.

    deepmodels train --config=experiments/mae_fashion.py --workdir=runs/mae

full: all 60,000 + 10,000; 5,000 of the 60,000 are held out for validation. The sizes of the paper are `mae_vit_b_16`,
`mae_vit_l_16` and `mae_vit_h_14`, for pictures of 224 pixels.

Ours: not run yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps)."""
    name, batch, steps, validation, hidden, layers = {
        "full": ("fashion_mnist", 128, 3_400, 5_000, 64, 4),  # 8 epochs
        "smoke": ("fashion_mnist_embedded", 8, 2, 200, 16, 1),
    }[size]
    every = max(1, steps // 10)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="mae_tiny",
                image_size=28,
                image_channels=1,
                hidden_size=hidden,
                num_layers=layers,
                num_heads=4,
                mlp_size=4 * hidden,
                decoder_hidden_size=hidden // 2,
            ),
            objective=dict(name="masked_reconstruction", patch_size=4, normalize_patches=False),
            data=dict(name=name, batch_size=batch, validation_size=validation, mean=(0.2860,), std=(0.3530,)),
            augment=dict(random_flip=dict()),
            optimizer=dict(
                name="adamw",
                learning_rate=1e-3,
                weight_decay=0.05,
                b2=0.95,
                schedule=dict(name="cosine", warmup_steps=steps // 10),
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
