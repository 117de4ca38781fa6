"""English verses to Spanish ones, by a small Transformer or an LSTM with attention, on the pairs inside the package.

    deepmodels train --config=experiments/translation_english_spanish.py --workdir=runs/transformer_en_es
    deepmodels train --config=experiments/translation_english_spanish.py:lstm --workdir=runs/lstm_en_es

full: the Transformer, in characters. lstm: the encoder and decoder of Luong, Pham & Manning (2015). The batches are of
verses of about one length, in one of four shapes.

All 31,000 verses make a translator, the 2,700 here an exercise: --config.data.path= takes a .tsv file with the columns
"english" and "spanish", and --config.data.tokenizer= what `deepmodels tokenizer train` wrote; then set
--config.model.vocab_size= to its number of ids.

Nobody has measured this config to its end yet.
"""

from ml_collections import ConfigDict

VOCABULARY = 91  # the characters of the training verses and five special ids


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: full, lstm, or smoke (two steps)."""
    transformer = dict(name="transformer_base", vocab_size=VOCABULARY)
    model = {
        "full": transformer | dict(hidden_size=128, num_layers=3, num_heads=4, mlp_size=512),
        "lstm": dict(
            name="luong_2015", vocab_size=VOCABULARY, target_vocab_size=VOCABULARY, hidden_size=256, num_layers=1
        ),
        "smoke": transformer | dict(hidden_size=8, num_layers=1, num_heads=2, mlp_size=8),
    }[size]
    batch, length, steps = {"full": (32, 256, 3_000), "lstm": (32, 256, 3_000), "smoke": (8, 64, 2)}[size]
    rate, schedule = 1e-3, dict(name="noam", warmup_steps=max(1, steps // 10))
    if size == "lstm":
        schedule = dict(name="cosine", warmup_steps=steps // 20)
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=dict(name="sequence_to_sequence", label_smoothing=0.1),
            data=dict(
                name="english_spanish",
                tokenizer="characters",
                max_length=length,
                batch_size=batch,
                buckets=(length // 4, length // 2, 3 * length // 4, length),
            ),
            optimizer=dict(name="adam", learning_rate=rate, b2=0.98, eps=1e-9, clip_norm=1.0, schedule=schedule),
            every=dict(log=min(50, every), evaluate=every, checkpoint=every),
        )
    )
