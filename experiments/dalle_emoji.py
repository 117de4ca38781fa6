"""DALL-E on emoji: pictures of their names, as the codes of an autoencoder that learns the same pictures before.

    npm pack emoji-datasource-google@16.0.0 && tar -xzf emoji-datasource-google-16.0.0.tgz
    python experiments/data/emoji.py package data/emoji
    deepmodels train --config=experiments/dalle_emoji.py:vq_vae --workdir=runs/vq_vae_emoji
    deepmodels train --config=experiments/dalle_emoji.py:small --workdir=runs/dalle_emoji

and then, with the CLIP of `clip_emoji.py` to choose among its samples, as a picture:

    python experiments/figures/dalle_emoji.py runs/dalle_emoji runs/vq_vae_emoji runs/clip dalle.png

small: pictures of 32 pixels as 8 x 8 codes of 128, which are a VQ-VAE's. full: on a discrete VAE, as in the paper, of
4 x 4 codes, in the run of `dvae`; three times the layers, which is for an accelerator. The test split has names that
don't train.

Ours, jax 0.10.2, seed 0, on two cores that other work shared: vq_vae 4 min 52 s, 3 min of them on a processor, with a
squared error of 0.011; small 13 min 23 s, 6 min 59 s on a processor: 36.3 % of the codes of the test pictures are the
likeliest, and it begins to know the training pictures by heart. Of 200 names that it never saw CLIP finds the name the
nearest of 200 for 16.0 % of the true pictures, for 14.0 % of what their codes give back, and for 19.5 % of what it
draws, the best of 16 by the same CLIP; among the five nearest 28.0, 28.0 and 41.0 %. By chance these would be 0.5 and
2.5 %, or more with a choice. People and faces are clearly such, with the hair and colours asked for; things that look
like no other emoji (a violin, a mirror) are shapeless. full: not run yet.
"""

from ml_collections import ConfigDict

EMOJI = dict(name="captioned_images", path="data/emoji", max_length=16)


def get_config(size: str = "full") -> ConfigDict:
    """Returns the config of one size: vq_vae, small, dvae, full, or smoke (two steps on pictures of clothes)."""
    sizes = {"vq_vae": (2_500, 32), "small": (600, 64), "dvae": (6_000, 64), "full": (6_000, 64), "smoke": (2, 8)}
    steps, batch = sizes[size]
    decoder = dict(name="dalle_tiny", vocab_size=2_048, codebook_size=128, text_length=16, kernel_size=3)
    text_to_image = dict(name="text_to_image", network="dvae")
    model, objective, data, frozen = {
        "dvae": (
            dict(name="dalle_dvae", codebook_size=128, hidden_size=64, first_size=64),
            dict(name="discrete_vae", beta=0.1, temperature=0.5),
            *(EMOJI, {}),
        ),
        "vq_vae": (
            dict(name="vq_vae", hidden_size=48, codebook_size=128, latent_size=16),
            dict(name="vector_quantized"),
            *(EMOJI, {}),
        ),
        "full": (
            decoder | dict(hidden_size=384, mlp_size=1536, num_layers=12, num_heads=6, grid=4),
            *(text_to_image, EMOJI, dict(dvae=dict(weights="runs/dvae_emoji"))),
        ),
        "small": (
            decoder | dict(hidden_size=96, mlp_size=384, num_layers=4, num_heads=3, grid=8, dropout_rate=0.1),
            *(text_to_image, EMOJI, dict(dvae=dict(weights="runs/vq_vae_emoji"))),
        ),
        "smoke": (
            dict(name="dalle_tiny", text_length=8, grid=4, vocab_size=32),
            *(text_to_image, dict(name="fashion_mnist_captions")),
            dict(dvae=dict(model=dict(name="dalle_dvae_tiny", channels=1))),
        ),
    }[size]
    every = max(1, steps // 5)
    return ConfigDict(
        dict(
            seed=0,
            steps=steps,
            model=model,
            objective=objective,
            data=data | dict(batch_size=batch),
            frozen=frozen,
            optimizer=dict(
                name="adamw",
                learning_rate=1e-3,
                weight_decay=0.0 if size == "vq_vae" else 0.05,
                clip_norm=1.0,
                schedule=dict(name="cosine", warmup_steps=steps // 10),
            ),
            every=dict(log=min(20, steps), evaluate=every, checkpoint=every),
        )
    )
