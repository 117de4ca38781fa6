"""A picture of brush strokes along a swirl, whose style a network can learn.

    python experiments/data/strokes.py data/strokes.png

Nothing is taken from anybody's picture: thousands of short strokes in a few colours, each along a field of waves.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("#0b1d51", "#1f4e9c", "#3d7fc4", "#8fc1e3", "#f2c14e", "#f78154", "#f4f0d9")  # night, and a few lights
WEIGHTS = (4, 5, 4, 3, 2, 1, 1)


def draw(size: int, seed: int = 0) -> Image.Image:
    """Returns a square picture of so many pixels a side, drawn four times as large."""
    rng, whole = np.random.default_rng(seed), 4 * size
    picture = Image.new("RGB", (whole, whole), COLOURS[0])
    pen = ImageDraw.Draw(picture)
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    for x, y in rng.random((9 * size, 2)):
        angle = 2.2 * np.sin(5.5 * x + 2 * y) + 1.7 * np.cos(6.5 * y - 3 * x)
        bent = angle + rng.normal(0, 0.25)
        step = 0.02 * np.array([[np.cos(angle), np.sin(angle)], [np.cos(bent), np.sin(bent)]])
        points = np.stack([[x, y] - step[0], [x, y], [x, y] + step[1]]) * whole
        light = 0.5 + 0.5 * np.sin(5.5 * x + 2 * y)  # bands of colours that follow the waves
        share = shares * np.where(np.arange(len(COLOURS)) >= 3, light, 1 - light)
        colour = COLOURS[rng.choice(len(COLOURS), p=share / share.sum())]
        pen.line([tuple(point) for point in points], fill=colour, width=max(2, whole // 90), joint="curve")
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def main() -> None:
    """Writes TARGET."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    arguments = parser.parse_args()
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    draw(arguments.size).save(arguments.target)


if __name__ == "__main__":
    main()
