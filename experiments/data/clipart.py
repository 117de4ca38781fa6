"""Open Clip Art as a folder of pictures by class, for `data=dict(name="image_folder")`.

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb openclipart
    python experiments/data/clipart.py openclipart data/clipart

The Debian package openclipart-png (0.18) holds 8,121 drawings, sorted into folders by hand. All are in the public
domain: each artist has dedicated theirs (Creative Commons Public Domain Dedication, the package's file `copyright`).

Sixteen of its folders show things and are large enough to be classes. Of these, a picture is left out if it is in two
of them, if its pixels are those of another, or if it is nearly empty. The others are laid on white, cut to what is
drawn, set on a white square and shrunk. A third of each class becomes test: whole series, as "bus1", "bus1_bw" and
"bus2" are one drawing in three colours. Which series it is depends on their names alone.
"""

import argparse
import hashlib
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {
    "beverage": "food/beverages",
    "bird": "animals/birds",
    "bug": "animals/bugs",
    "clothing": "people/clothing",
    "computer": "computer/hardware",
    "dessert": "food/desserts",
    "flag": "signs_and_symbols/flags",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "home": "buildings/homes",
    "mammal": "animals/mammals",
    "meat": "food/meats_and_eggs",
    "music": "recreation/music",
    "road_sign": "transportation/roadsigns",
    "sport": "recreation/sports",
    "vehicle": "transportation/vehicles",
}
LARGEST = 120  # pictures of a class: there are 551 flags
TEST_SHARE = 1 / 3
SMALLEST = 16  # pixels, the larger side of what is drawn


def draw(file: Path, size: int) -> Image.Image | None:
    """Returns a drawing on a white square of `size` pixels, cut to what isn't white; None if there is too little."""
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    picture.thumbnail((1024, 1024))  # some were rendered at 13,000 x 13,000
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    drawn = np.argwhere((np.asarray(picture) < 245).any(-1))
    if not len(drawn) or np.ptp(drawn, axis=0).max() < SMALLEST:
        return None
    (top, left), (bottom, right) = drawn.min(0), drawn.max(0) + 1
    picture = picture.crop((left, top, right, bottom))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def series(file: Path) -> str:
    """Returns what the drawings of one series have in common: their name without numbers, colours and artist."""
    words = re.findall(r"[a-z]+", file.stem.lower())
    return next((word for word in words if word != "bw"), "")[:8]


def choose_test(files: list[Path]) -> set[Path]:
    """Returns a share of the files in whole series, in an order that depends on the names of the series alone."""
    groups = defaultdict(list)
    for file in files:
        groups[series(file)].append(file)
    wanted, test = round(TEST_SHARE * len(files)), set()
    for name in sorted(groups, key=_scrambled):
        if len(test) + len(groups[name]) <= wanted:
            test.update(groups[name])
    return test


def _scrambled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def main() -> None:
    """Reads the package's files and writes TARGET/train/<class>/<name>.png and TARGET/test/<class>/<name>.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="where the package was unpacked")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--size", type=int, default=96, help="height and width in pixels")
    arguments = parser.parse_args()
    root = arguments.source / "usr/share/openclipart/png"
    if not root.is_dir():
        sys.exit(f"{root}: no such folder; {arguments.source} isn't where openclipart-png was unpacked")
    if arguments.target.exists():
        sys.exit(f"{arguments.target} exists already")
    Image.MAX_IMAGE_PIXELS = None  # a few are larger than what Pillow takes for an attack

    files = {name: sorted((root / folder).rglob("*.png")) for name, folder in CLASSES.items()}
    copies = Counter(file.name for inside in files.values() for file in inside)
    seen = set()
    for name, inside in files.items():
        drawings = {}
        for file in sorted((file for file in inside if copies[file.name] == 1), key=lambda file: _scrambled(file.name)):
            if len(drawings) == LARGEST:
                break
            drawing = draw(file, arguments.size)
            if drawing is not None and drawing.tobytes() not in seen:
                seen.add(drawing.tobytes())
                drawings[file] = drawing
        test = choose_test(list(drawings))
        for file, drawing in drawings.items():
            folder = arguments.target / ("test" if file in test else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            drawing.save(folder / file.name)
        print(f"{name:12} {len(drawings) - len(test):4} train {len(test):4} test")


if __name__ == "__main__":
    main()
