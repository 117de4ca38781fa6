"""BERT's pre-training in small: the hidden bytes of speeches, or these and whether two texts belong together.

    deepmodels train --config=experiments/bert_state_of_the_union.py --workdir=runs/bert_state_of_the_union
    deepmodels train --config=experiments/bert_state_of_the_union.py:pairs --workdir=runs/bert_pairs

full: masked tokens alone, on windows of running text, as RoBERTa. pairs: on pairs of texts, with the second task of the
paper: does the second follow the first?

Nobody has measured this config to its end yet.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, pairs, or smoke (two steps, of pairs)."""
    batch, length, steps, sizes = {
        "full": (32, 128, 4_000, dict()),
        "pairs": (32, 128, 4_000, dict()),
        "smoke": (32, 64, 2, dict(hidden_size=8, num_layers=1, num_heads=2, mlp_size=8)),
    }[size]
    task = "masked_lm" if size == "full" else "pretraining"
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(name="bert_tiny", vocab_size=260, max_length=length, head=task, **sizes),
            objective=dict(name=task),
            data=dict(
                name="state_of_the_union",
                tokenizer="bytes",
                max_length=length,
                sentence_pairs=task == "pretraining",
                batch_size=batch,
            ),
            optimizer=dict(
                name="adamw",
                learning_rate=1e-3,
                weight_decay=0.01,
                clip_norm=1.0,
                schedule=dict(name="linear", warmup_steps=steps // 10),
            ),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
