"""How near what was written is to what was meant: BLEU, and counts of insertions, deletions and substitutions."""

from collections.abc import Callable, Hashable, Sequence

from deepmodels.errors import ConfigError


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Returns the least number of insertions, deletions and substitutions that make one sequence of the other.

    Levenshtein (1966).

    Args:
      one: a text counts by characters, a list by its entries.
      other: likewise.
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def error_rate(written: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]) -> float:
    """Returns the edits per entry of the references: of phonemes the phoneme error rate, of words the word error rate.

    The edits of all sequences are divided by the entries of all, so that long ones weigh more. It may exceed 1.

    Args:
      written: N sequences.
      references: the true one of each; together they hold at least one entry.

    Raises:
      ConfigError: there isn't one reference for each, or they are all empty.
    """
    if len(written) != len(references):
        raise ConfigError(f"references: expected one for each of {len(written)} sequences, got {len(references)}")
    total = sum(map(len, references))
    if not total:
        raise ConfigError("references: expected at least one entry in all of them together")
    return sum(map(edit_distance, written, references)) / total


def word_error_rate(written: Sequence[str], references: Sequence[str]) -> float:
    """Returns `error_rate` of texts, cut at spaces: of phonemes with spaces between them, the phoneme error rate."""
    return error_rate([text.split() for text in written], [text.split() for text in references])


def sequence_accuracy(written: Sequence[str], references: Sequence[str]) -> float:
    """Returns the share of texts that are their reference, word by word.

    Args:
      written: N texts.
      references: the true one of each.

    Raises:
      ConfigError: there isn't one reference for each, or there is no text.
    """
    if len(references) != len(written) or not written:
        raise ConfigError(f"references: expected one for each of {len(written)} texts, got {len(references)}")
    return sum(a.split() == b.split() for a, b in zip(written, references, strict=True)) / len(written)


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Returns the BLEU of a corpus, 0 to 100, as sacrebleu computes it by default.

    Papineni, Roukos, Ward & Zhu (2002), doi:10.3115/1073083.1073135; Post (2018), arXiv:1804.08771. It cuts the texts
    into words itself ("13a"), so they have to be as people write them.

    Args:
      translations: N texts.
      references: the true one of each.

    Raises:
      ConfigError: sacrebleu is missing, or there isn't one reference for each of the translations.
    """
    if len(translations) != len(references) or not translations:
        raise ConfigError(
            f"references: expected one for each of {len(translations)} translations, got {len(references)}"
        )
    try:
        import sacrebleu
    except ImportError as error:
        raise ConfigError("BLEU needs the package 'sacrebleu': pip install 'deepmodels-jax[text]'") from error
    return sacrebleu.corpus_bleu(list(translations), [list(references)]).score


WRITTEN: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {  # of texts and their references
    "bleu": bleu,
    "word_error_rate": word_error_rate,
    "sequence_accuracy": sequence_accuracy,
}
