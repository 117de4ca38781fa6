"""The sources of the Python that runs this, as a folder of texts and a tokenizer, for `data=dict(name="documents")`.

    python experiments/data/python_library.py data/python_library

The standard library's modules are where `sysconfig` says, 661 files and 11.8 MB of Python 3.11; its tests and what was
installed beside it are left out. A tenth of the files is the test split, whatever module they belong to, by their names
alone. The tokenizer is a byte-level BPE of the others, with ids for infilling.
"""

import argparse
import hashlib
import shutil
import sysconfig
from pathlib import Path

from deepmodels import tokenizers

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
SPECIAL = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def is_tested(name: str) -> bool:
    """Returns whether a module, "json/decoder.py", is one of the test split."""
    return hashlib.sha256(name.encode()).digest()[0] < 26


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--source", type=Path, default=sysconfig.get_path("stdlib"), help="default: this Python's own")
    parser.add_argument("--vocab-size", type=int, default=2048, help="ids of the tokenizer")
    options = parser.parse_args()
    counts = {"train": [0, 0], "test": [0, 0]}
    for file in sorted(options.source.rglob("*.py")):
        name = file.relative_to(options.source)
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # the few in another encoding are there to be refused
        if LEFT_OUT & set(name.parts) or not text.strip():
            continue
        split = "test" if is_tested(name.as_posix()) else "train"
        copy = options.target / split / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        counts[split][0] += 1
        counts[split][1] += len(text)
    for split, (files, characters) in counts.items():
        print(f"{split:5} {files:4} files, {characters:10,} characters")
    files = sorted((options.target / "train").rglob("*.py"))
    made = tokenizers.train_bpe(files, options.vocab_size, options.target / "tokenizer.json", special=SPECIAL)
    print(f"tokenizer.json: {made.vocab_size:,} ids")


if __name__ == "__main__":
    main()
