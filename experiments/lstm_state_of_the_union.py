"""A language model of bytes, two LSTM layers, on the State of the Union addresses that ship inside the package.

    deepmodels train --config=experiments/lstm_state_of_the_union.py --workdir=runs/lstm_state_of_the_union

full: the first 0.9 million characters to learn from, the last 0.1 million to be tested on. The perplexity is per byte;
its logarithm to the base of 2 is the bits per byte.

Nobody has measured this config to its end yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps)."""
    batch, length, steps, hidden = {"full": (32, 128, 2_000, 256), "smoke": (32, 64, 2, 8)}[size]
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="lstm_ptb_medium", vocab_size=260, hidden_size=hidden, dropout_rate=0.1, recurrent_bias=False
            ),
            objective=dict(name="language_modelling"),
            data=dict(name="state_of_the_union", tokenizer="bytes", max_length=length, batch_size=batch),
            optimizer=dict(
                name="adam",
                learning_rate=3e-3,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=steps // 20),
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
