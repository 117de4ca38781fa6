"""GPT-3 at its eight sizes: a run to plan before anybody pays for it.

    deepmodels estimate experiments/gpt3.py:175b --topology 512 --hardware h100 --tokens 300e9

Sizes, batches and learning rates are of table 2.1 of the paper, Adam and the schedule of its appendix B; the records
are drawn at random, and `documents` are what to train on. The mesh is for 512 devices of 80 GB.
"""

from ml_collections import ConfigDict


def get_config(size: str = "175b") -> ConfigDict:
    """Returns the config of one size: small, medium, large, xl, 2_7b, 6_7b, 13b, 175b, or smoke (two steps)."""
    tokens, learning_rate = {
        "small": (0.5e6, 6e-4),
        "medium": (0.5e6, 3e-4),
        "large": (0.5e6, 2.5e-4),
        "xl": (1e6, 2e-4),
        "2_7b": (1e6, 1.6e-4),
        "6_7b": (2e6, 1.2e-4),
        "13b": (2e6, 1e-4),
        "175b": (3.2e6, 0.6e-4),
        "smoke": (0, 6e-4),
    }[size]
    model, length, batch = dict(name=f"gpt3_{size}", remat="full", dropout_rate=0.0), 2048, int(tokens / 2048 / 64) * 64
    if size == "smoke":
        sizes = dict(vocab_size=512, hidden_size=16, num_layers=2, num_heads=2, max_length=32, window=4)
        model, length, batch = dict(name="gpt3_small", **sizes), 32, 8
    return ConfigDict(
        dict(
            seed=0,
            steps=2 if size == "smoke" else int(300e9 / tokens),
            precision="float32" if size == "smoke" else "bfloat16",
            mesh=dict(data=-1) if size == "smoke" else dict(data=2, fsdp=32, tensor=8),
            accumulate=max(1, batch // 256),  # four texts at a time on each of the 64 parts of the batch
            model=model,
            objective=dict(name="language_modelling", chunk_size=min(length, 256)),
            data=dict(name="synthetic", length=length, vocab_size=512 if size == "smoke" else 50_257, batch_size=batch),
            optimizer=dict(
                name="adamw",
                learning_rate=learning_rate,
                b2=0.95,
                weight_decay=0.1,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=1 if size == "smoke" else int(375e6 / tokens), final=0.1),
            ),
            every=dict(log=1, evaluate=1_000, checkpoint=1_000),
        )
    )
