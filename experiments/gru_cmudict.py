"""Letters to phonemes: a GRU reads a word, another writes how it is said, on the 10,000 words inside the package.

    deepmodels train --config=experiments/gru_cmudict.py --workdir=runs/gru_cmudict

full: the sizes of the model g2p_gru, whose weights circulate and were trained on all of CMUdict, twelve times as many
words; --config.data.path= takes a .tsv file with the columns "word" and "phonemes".

Ours, on two CPU cores that much other work shared (jax 0.10.2, seed 0, 2,000 steps on 9,000 words): of 1,000 other
words a beam of 4 spells 35.5 % without a mistake, and the phoneme error rate is 25.7 % (test/word_error_rate, as the
words of its texts are phonemes); 13 min 36 s, 4 min 22 s of it on a processor.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, or smoke (two steps)."""
    batch, steps, hidden = {"full": (64, 2_000, 256), "smoke": (64, 2, 8)}[size]
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            # 26 letters and 69 phonemes, and five special ids each
            model=dict(name="g2p_gru", vocab_size=31, target_vocab_size=74, hidden_size=hidden),
            objective=dict(name="sequence_to_sequence"),
            data=dict(name="cmudict", batch_size=batch),
            optimizer=dict(
                name="adam",
                learning_rate=2e-3,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=steps // 20),
            ),
            decode=dict(metrics=("word_error_rate", "sequence_accuracy"), beam_size=4, length_penalty=0.0),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
