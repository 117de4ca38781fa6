"""The verses of two Bibles in English and Spanish as a table by split, for `data=dict(name="english_spanish")`.

    pip install pysword==0.2.8
    apt-get download sword-text-web sword-text-sparv
    for file in sword-text-*.deb; do dpkg-deb -x $file sword; done
    python experiments/data/verses.py sword/usr/share/sword data/verses
    deepmodels tokenizer train data/verses/train.txt --vocab-size 4000 --out data/verses/tokenizer.json

Debian's packages have the World English Bible (sword-text-web 426.0) and the Reina-Valera of 1909 (sword-text-sparv
2.60), both in the public domain; "World English Bible" is a trademark of eBible.org, and a changed text may not be
called by that name. What is taken out here is markup, notes and headings. A verse that only one of them has, or that is
longer than 800 characters, is left out: some there hold a whole passage.

Which verses test depends on their names alone. A verse whose English or Spanish is word by word that of a test verse
trains nobody. train.txt has the texts of the train split in both languages, a line each, to train a tokenizer on.
"""

import argparse
import functools
import hashlib
import re
import sys
from pathlib import Path

ENGLISH, SPANISH = "engWEB2015eb", "spaRV1909eb"
LONGEST = 800  # characters

Verse = tuple[str, str, str]  # its name, English and Spanish


def clean(text: str) -> str:
    """Returns the words of a verse in OSIS, its markup without titles and notes."""
    text = re.sub(
        r"<(title|note|div type=\"gloss)[^>]*>.*?</(title|note|div)>|<div type=\"colophon.*", " ", text, flags=re.S
    )
    text = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    return re.sub(r"\s+([.,;:!?”’)])", r"\1", re.sub(r"([“‘(])\s+", r"\1", text))


def read(folders: list[Path], name: str) -> dict[str, str]:
    """Returns the verses of one module by their names, Gen.1.1."""
    from pysword.bible import ZTextModule
    from pysword.modules import SwordModules

    if not hasattr(ZTextModule._decompressed_text, "cache_info"):  # or each verse unpacks its whole book
        ZTextModule._decompressed_text = functools.cache(ZTextModule._decompressed_text)
    for folder in folders:
        modules = SwordModules(str(folder))
        if name in modules.parse_modules():
            bible = modules.get_bible_from_module(name)
            break
    else:
        sys.exit(f"{', '.join(map(str, folders))}: no module {name}; unpack its package there")
    verses = {}
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter, count in enumerate(book.chapter_lengths, 1):
                for verse in range(1, count + 1):
                    text = bible.get(books=[book.name], chapters=[chapter], verses=[verse], clean=False)
                    verses[f"{book.osis_name}.{chapter}.{verse}"] = clean(text)
    return verses


def split(verses: list[Verse], count: int) -> dict[str, list[Verse]]:
    """Returns the verses of each split, `count` to test, in the order in which they came."""
    order = sorted(verses, key=lambda verse: hashlib.sha256(verse[0].encode()).hexdigest())
    names = {name for name, _, _ in order[:count]}
    test = [verse for verse in verses if verse[0] in names]
    english, spanish = ({verse[i] for verse in test} for i in (1, 2))
    train = [v for v in verses if v[0] not in names and v[1] not in english and v[2] not in spanish]
    return {"train": train, "test": test}


def main() -> None:
    """Reads both modules and writes TARGET/train.tsv, TARGET/test.tsv and TARGET/train.txt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="the folders with mods.d and modules")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--test", type=int, default=1000, help="how many verses test")
    arguments = parser.parse_args()
    english, spanish = (read(arguments.source, name) for name in (ENGLISH, SPANISH))
    verses = [
        (name, text, spanish[name]) for name, text in english.items() if spanish.get(name) and 0 < len(text) <= LONGEST
    ]
    arguments.target.mkdir(parents=True, exist_ok=True)
    parts = split(verses, arguments.test)
    for name, part in parts.items():
        lines = ["verse\tenglish\tspanish", *map("\t".join, part)]
        (arguments.target / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name:5} {len(part):6,} verses")
    texts = [text for _, *both in parts["train"] for text in both]
    (arguments.target / "train.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
