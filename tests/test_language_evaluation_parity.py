"""Perplexity with a stride and likelihoods of choices, as one computes them with transformers."""

import numpy as np
import oracles
import pytest

from deepmodels.evaluation import perplexity, score_continuations
from deepmodels.loading import load_folder

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    sizes = dict(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None)
    theirs = oracles.randomise(oracles.transformers("GPT2LMHeadModel", **sizes))
    theirs.save_pretrained(folder)
    model, variables = load_folder(folder)
    return theirs.eval(), lambda tokens, mask: model.apply(variables, tokens, mask)


@pytest.mark.parametrize("stride", [3, 8])
def test_perplexity_with_a_stride(both, stride):
    """The loop of transformers' documentation, "Perplexity of fixed-length models"."""
    import torch

    theirs, forward = both
    tokens, window = np.random.default_rng(0).integers(0, 40, 70), 16
    total, count, reached = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        given = torch.tensor(tokens[None, begin:end])
        labels = given.clone()
        labels[:, : -(end - reached)] = -100
        counted = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(theirs(given, labels=labels).loss) * counted
        count, reached = count + counted, end
        if end == len(tokens):
            break
    found, counted = perplexity(forward, tokens, window=window, stride=stride)
    assert counted == count == 69
    np.testing.assert_allclose(found, np.exp(total / count), rtol=1e-4)


def test_likelihoods_of_choices(both):
    import torch

    theirs, forward = both
    rng = np.random.default_rng(1)
    contexts = [rng.integers(0, 40, n).tolist() for n in (3, 11, 6)]
    choices = [rng.integers(0, 40, n).tolist() for n in (4, 1, 9)]
    found = score_continuations(forward, contexts, choices, batch_size=2)
    for context, choice, score in zip(contexts, choices, found.log_likelihood, strict=True):
        row = torch.tensor([context + choice])
        with torch.no_grad():
            likelihoods = theirs(row).logits.log_softmax(-1)[0, :-1]
        expected = likelihoods.gather(1, row[0, 1:, None])[-len(choice) :].sum()
        np.testing.assert_allclose(score, float(expected), rtol=1e-4)
