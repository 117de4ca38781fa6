"""Learning in the context: what was the value of this key before? Asked of a GPT of two layers, and of one layer.

    deepmodels train --config=experiments/gpt_in_context.py --workdir=runs/in_context
    deepmodels train --config=experiments/gpt_in_context.py:one_layer --workdir=runs/in_context_one_layer

In each row keys have other values, so that weights can't know them. The accuracy is that of values whose key was in the
row before; a guess among the 4 values has 25 % right. The layers are Qwen3's, whose rotary positions make it easy to
look at the token before, and Muon trains them.

Ours, jax 0.10.2, seed 0: two layers 100.0 % of the test split, in 4 min 51 s, 2 min of them on a processor; one layer
98.3 %, in 4 min 16 s. Two layers have 99.9 % of what they train on after 200 steps, one has 93 % after 900: it can't
look up what stands behind a key, but with four keys it may tell values by how often they came. Whether two layers find
it depends on the recipe: with --config.optimizer.schedule.name=linear and .warmup_steps=50 they are at 31 % after 600
steps.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, one_layer, or smoke (two steps)."""
    batch, steps, layers = {"full": (64, 1_500, 2), "one_layer": (64, 1_500, 1), "smoke": (8, 2, 2)}[size]
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="qwen3_0_6b",
                vocab_size=8,
                hidden_size=64,
                num_layers=layers,
                num_heads=2,
                num_kv_heads=2,
                head_size=32,
                mlp_size=128,
                max_length=64,
                rope=dict(theta=10_000.0),
                unroll=layers,
            ),
            objective=dict(name="language_modelling"),
            data=dict(name="recall", pairs=16, keys=4, batch_size=batch),
            optimizer=dict(
                name="muon",
                learning_rate=1e-2,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=max(1, steps // 15)),
            ),
            every=dict(log=min(50, steps), evaluate=max(1, steps // 4), checkpoint=max(1, steps // 2)),
        )
    )
