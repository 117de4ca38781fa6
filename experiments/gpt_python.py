"""A small GPT that completes Python, on the sources of the standard library that is on the machine.

    python experiments/data/python_library.py data/python_library
    deepmodels train --config=experiments/gpt_python.py --workdir=runs/gpt_python

Half of the pieces are tasks to fill in the middle, of which half have the suffix first. The test split is of whole
files that aren't in the train split, and read from left to right.

Ours, jax 0.10.2, seed 0, on the library of Python 3.11: 43.7 % of the tokens of the test files are the likeliest, a
perplexity of 18.4 for each of 2,048 kinds; 38 min 53 s on two cores that other work shared, 28 min 14 s of them on a
processor. Of `def __init__(self, ` it makes `kwargs):` and a docstring that begins `Create a new` and goes on with
`Arguments:` without an end: it has learned what Python looks like, and little of what it says.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps, of bytes)."""
    vocab_size, batch, length, steps, sizes = {
        "full": (2048, 8, 256, 2_000, dict(hidden_size=192, num_layers=4, num_heads=3)),
        "smoke": (260, 8, 32, 2, dict(hidden_size=16, num_layers=2, num_heads=2)),
    }[size]
    data = dict(
        name="documents",
        path="data/python_library",
        pattern="**/*.py",
        tokenizer="data/python_library/tokenizer.json",
        infill_rate=0.5,
        max_length=length,
        batch_size=batch,
    )
    if size == "smoke":  # on what ships with the package
        data = dict(name="state_of_the_union", max_length=length, batch_size=batch)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=dict(
                name="gpt2",
                vocab_size=vocab_size,
                max_length=length,
                dropout_rate=0.0,
                unroll=sizes["num_layers"],
                **sizes,
            ),
            objective=dict(name="language_modelling", z_loss=1e-4),
            data=data,
            optimizer=dict(
                name="muon",
                learning_rate=4e-3,
                weight_decay=0.1,
                clip_norm=1.0,
                schedule=dict(name="linear", warmup_steps=steps // 20),
            ),
            every=dict(log=min(20, steps), evaluate=steps, checkpoint=max(1, steps // 4)),
        )
    )
