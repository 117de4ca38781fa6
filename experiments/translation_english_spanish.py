"""English verses to Spanish ones, by a small Transformer or an LSTM with attention.

    python experiments/data/verses.py sword/usr/share/sword data/verses
    deepmodels tokenizer train data/verses/train.txt --vocab-size 4000 --out data/verses/tokenizer.json
    deepmodels train --config=experiments/translation_english_spanish.py --workdir=runs/transformer_en_es
    deepmodels train --config=experiments/translation_english_spanish.py:lstm --workdir=runs/lstm_en_es

experiments/data/verses.py says where its verses come from, 30,942 pairs. One byte-level BPE of 4,000 ids serves both
languages, and the verses of up to 32 ids a side are used, as little time goes further with these:
12,018 to learn from, 399 to be tested on. --config.data.max_length=96 with --config.data.buckets="(32, 48, 64, 96)"
takes all but 44 of them. The batches are of verses of about one length.

full: the Transformer of Vaswani et al. (2017), 128 wide and of three layers on each side. lstm: the encoder and decoder
of Luong, Pham & Manning (2015), one layer of 256 units each. The report shows translations, and in report/attention.png
where the decoder looked.

Ours, on two CPU cores that much other work shared (jax 0.10.2, seed 0), on the 399 verses that they were tested on,
with beams of 4: full has a BLEU of 13.2, in 22 min 48 s from the start of the command to the report (8 min 48 s on a
processor); lstm 13.0, in 28 min and two starts.
"""

from ml_collections import ConfigDict


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, lstm, or smoke (two steps, on the verses inside the package)."""
    batch, steps, learning_rate, model = {
        "full": (32, 1_800, 1.5e-3, dict(name="transformer_base", hidden_size=128, num_layers=3, num_heads=4)),
        "lstm": (32, 1_800, 2e-3, dict(name="luong_2015", hidden_size=256, num_layers=1)),
        "smoke": (8, 2, 1e-3, dict(name="transformer_base", hidden_size=8, num_layers=1, num_heads=2)),
    }[size]
    vocabulary = 91 if size == "smoke" else 4_000  # the characters of the package's verses, and five special ids
    model |= dict(vocab_size=vocabulary, dropout_rate=0.0)  # so few epochs don't fit too closely
    if size == "lstm":
        model |= dict(target_vocab_size=vocabulary)
    else:
        model |= dict(mlp_size=4 * model["hidden_size"])
    data = dict(path="data/verses", tokenizer="data/verses/tokenizer.json", max_length=32, buckets=(24, 32))
    if size == "smoke":
        data = dict(tokenizer="characters", max_length=64, buckets=(32, 64))
    every = max(1, steps // 2)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="sequence_to_sequence", label_smoothing=0.1),
            data=dict(name="english_spanish", batch_size=batch, **data),
            optimizer=dict(
                name="adam",
                learning_rate=learning_rate,
                b2=0.98,
                eps=1e-9,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=steps // 10),
            ),
            decode=dict(metrics=("bleu",)),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
