"""Emoji with their names as captions, for `data=dict(name="captioned_images")`.

    npm pack emoji-datasource-google@16.0.0 && tar -xzf emoji-datasource-google-16.0.0.tgz
    python experiments/data/emoji.py package data/emoji

The package emoji-datasource-google (16.0.0 on npm, under the MIT licence) has the drawings of Noto Emoji, under the
Apache licence, and the names of Unicode. Flags, whose names nobody reads off a drawing, symbols and components are left
out. People are there in several skin tones, which their captions say: "woman firefighter dark skin".

Which names test depends on the names alone. A name that tests has none of its pictures among those that train, and
tests by one: its words are known from other names, as those of "orange book" are from "blue book" and "orange heart".
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

from PIL import Image

LEFT_OUT = ("Component", "Flags", "Symbols")
TONES = {
    "1F3FB": "light",
    "1F3FC": "medium light",
    "1F3FD": "medium",
    "1F3FE": "medium dark",
    "1F3FF": "dark",
}


def caption(name: str, tone: str | None = None) -> str:
    """Returns a name's words in lower case, and the tone of the skin if there is one."""
    words = re.findall(r"[^\W_]+", name.casefold())
    return " ".join([*words, *([TONES[tone], "skin"] if tone else [])])


def pictures(emoji: dict) -> dict[str, str]:
    """Returns an emoji's files by caption, its own first."""
    found = {caption(emoji["name"]): emoji["image"]} if emoji["has_img_google"] else {}
    for tone, variation in emoji.get("skin_variations", {}).items():
        if tone in TONES and variation["has_img_google"]:
            found[caption(emoji["name"], tone)] = variation["image"]
    return found


def draw(file: Path, size: int) -> Image.Image:
    """Returns a picture on white, `size` pixels high and wide."""
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def main() -> None:
    """Reads the package's files and writes TARGET/pictures/<file>.png, TARGET/train.tsv and TARGET/test.tsv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="where the package was unpacked")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--test", type=int, default=200, help="how many names test")
    arguments = parser.parse_args()
    table, folder = arguments.source / "emoji.json", arguments.source / "img/google/64"
    if not table.is_file() or not folder.is_dir():
        sys.exit(f"{arguments.source}: no emoji.json with img/google/64; it isn't emoji-datasource-google unpacked")
    if arguments.target.exists():
        sys.exit(f"{arguments.target} exists already")
    named = {}
    for emoji in json.loads(table.read_text(encoding="utf-8")):
        if emoji["category"] not in LEFT_OUT and (files := pictures(emoji)):
            named.setdefault(caption(emoji["name"]), files)
    order = sorted(named, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    splits = {
        "test": [(named[name][name], name) for name in order[: arguments.test] if name in named[name]],
        "train": [(file, text) for name in order[arguments.test :] for text, file in named[name].items()],
    }
    (arguments.target / "pictures").mkdir(parents=True)
    for split, rows in splits.items():
        for file, _ in rows:
            draw(folder / file, arguments.size).save(arguments.target / "pictures" / file)
        lines = ["image\tcaption", *(f"pictures/{file}\t{text}" for file, text in rows)]
        (arguments.target / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = {word for _, text in rows for word in text.split()}
        print(f"{split:5} {len(rows):5,} pictures, {len(words):5,} words")


if __name__ == "__main__":
    main()
