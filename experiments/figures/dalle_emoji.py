"""What DALL-E draws of names that it has learned and of names that it never saw, as a PNG; CLIP says which is which.

    python experiments/figures/dalle_emoji.py runs/dalle_emoji runs/dvae_emoji runs/clip dalle.png

The runs are those of experiments/dalle_emoji.py and experiments/clip_emoji.py. Of each name it draws 16 pictures, of
which the one counts that CLIP finds nearest to the name. What is printed: the share of the held-out pictures whose name
is the nearest of all held-out names, and is among the five nearest; of the true pictures, of what the discrete VAE
makes of these, and of what DALL-E draws.
"""

import sys
import textwrap

import jax
import matplotlib.pyplot as plt
import numpy as np

from deepmodels import data, evaluation, generation, tokenizers, training
from deepmodels.data.sources import permutation
from deepmodels.training import experiment
from deepmodels.training.workdir import read_config

SAMPLES, SHOWN = 16, 8


def main(dalle_run: str, dvae_run: str, clip_run: str, target: str) -> None:
    """Draws, measures and writes the picture."""
    dalle, dalle_variables, tokenizer = training.load_run(dalle_run)
    dvae, dvae_variables, _ = training.load_run(dvae_run)
    clip, clip_variables, words = training.load_run(clip_run)
    sources = experiment.make(read_config(dalle_run)).sources
    decode = jax.jit(lambda codes: dvae.apply(dvae_variables, codes, method="decode_indices"))
    rebuild = jax.jit(lambda pictures: decode(dvae.apply(dvae_variables, pictures, method="encode_indices")))
    see = jax.jit(lambda pictures: clip.apply(clip_variables, (pictures - 0.5) / 0.5, method="encode_images"))
    read = jax.jit(lambda tokens: clip.apply(clip_variables, tokens, method="encode_text"))

    def drawn(names: list[str]) -> np.ndarray:
        texts = np.asarray(read(tokenizers.encode_prompts(words, names, clip.max_length)))
        chosen = []
        for number, name in enumerate(names):
            codes = generation.generate_codes(
                dalle, dalle_variables, [name] * SAMPLES, tokenizer=tokenizer, seed=number
            )
            pictures = np.asarray(decode(codes))
            chosen.append(pictures[evaluation.rerank(see(pictures), texts[number])[0]])
        return np.stack(chosen)

    def nearest(pictures: np.ndarray, texts: np.ndarray) -> str:
        order = np.stack([evaluation.rerank(texts, picture) for picture in np.asarray(see(pictures))])
        place = (order == np.arange(len(texts))[:, None]).argmax(1)
        return f"{(place == 0).mean():.1%} nearest, {(place < 5).mean():.1%} among five"

    shown = {}
    for split in ("train", "test"):
        source = sources[split]
        numbers = np.arange(len(source)) if split == "test" else permutation(len(source), 0)[:SHOWN]
        names = [source.captions[number] for number in numbers]
        true = data.gather(source, numbers)["image"].astype(np.float32) / 255
        rows = {"true": true, "of its codes": np.asarray(rebuild(true)), "drawn": drawn(names)}
        shown[split] = names, rows
        if split == "test":
            texts = np.asarray(read(tokenizers.encode_prompts(words, names, clip.max_length)))
            for row, pictures in rows.items():
                print(f"{len(names)} held-out names, {row}: {nearest(pictures, texts)}")
    figure, axes = plt.subplots(6, SHOWN, figsize=(1.6 * SHOWN, 10))
    for number, (names, rows) in enumerate(shown.values()):
        for row, (title, pictures) in enumerate(rows.items()):
            for column in range(SHOWN):
                axis = axes[3 * number + row, column]
                axis.imshow(np.clip(pictures[column], 0, 1))
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(textwrap.fill(names[column], 16), fontsize=8)
                if column == 0:
                    axis.set_ylabel(f"{title},\n{'held out' if number else 'learned'}", fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=100)


main(*sys.argv[1:])
