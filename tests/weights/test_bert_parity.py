import argparse
import os
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest
from text_comparison import (
    assert_close,
    check_gradients,
    check_written,
    converted,
    lively,
    padding,
    saved,
    tensors,
    words,
)

from deepmodels.models.bert import Bert
from deepmodels.weights import bert

pytestmark = pytest.mark.parity

SIZES = dict(vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, mlp_size=32, max_length=16)
THEIRS = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)
ROBERTA = dict(num_segments=1, epsilon=1e-5, padding_index=1)
THEIR_ROBERTA = THEIRS | dict(type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
DISTILBERT = dict(num_segments=0, pooling=False, pooler_activation="relu")
THEIR_DISTILBERT = dict(vocab_size=40, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=16)
CLASSES = dict(num_labels=5)

FAMILIES = {"Bert": (THEIRS, {}), "Roberta": (THEIR_ROBERTA, ROBERTA), "DistilBert": (THEIR_DISTILBERT, DISTILBERT)}
HEADS = {
    "Model": None,
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "pretraining",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}
CASES = [(family, suffix) for family in FAMILIES for suffix in HEADS if family == "Bert" or suffix != "ForPreTraining"]


@pytest.mark.parametrize(("family", "suffix"), CASES)
def test_gives_what_transformers_gives(family, suffix, tmp_path):
    import torch

    (config, arguments), head = FAMILIES[family], HEADS[suffix]
    if head in ("sequence_classification", "token_classification"):
        config, arguments = config | dict(num_labels=5), arguments | dict(num_classes=5)
    theirs = lively(f"{family}{suffix}", **config)
    rules = bert.transformers(theirs.config.model_type, head)
    model = Bert(**SIZES | arguments, head=head)
    tokens, mask = words(40), padding()
    tokens[~mask] = config.get("pad_token_id", 0)
    segments = (np.arange(7)[None] > np.array([3, 2, 5])[:, None]).astype(np.int32)
    extra = dict(segments=segments) if family == "Bert" else {}
    variables = converted(model, saved(theirs, tmp_path / "theirs"), rules, tokens)
    ours = jax.tree.map(np.asarray, jax.jit(model.apply)(variables, tokens, mask, **extra))
    given = dict(input_ids=tokens, attention_mask=mask.astype(np.int32))
    given |= dict(token_type_ids=segments) if extra else {}
    with torch.no_grad():
        expected = outputs(theirs(**tensors(given)))
    assert len(expected) == (len(ours) if isinstance(ours, dict) else 1)
    for key, their in expected.items():
        our = ours[key] if isinstance(ours, dict) else ours
        if our.ndim == 3:  # what stands on padding differs, and counts for nothing
            our, their = our[mask], their[mask]
        assert_close(key, our, their)
    check_written(variables, rules, theirs, tmp_path)


def outputs(theirs):
    """What ours are called, and theirs."""
    if "start_logits" in theirs:
        import torch

        return {"answer": torch.stack([theirs.start_logits, theirs.end_logits], -1).numpy()}
    names = {
        "last_hidden_state": "hidden",
        "pooler_output": "pooled",
        "prediction_logits": "masked_lm",
        "seq_relationship_logits": "next_sentence",
        "logits": "logits",
    }
    return {names[key]: value.numpy() for key, value in theirs.items()}


def test_gradients_of_all_parameters():
    theirs = lively("BertForPreTraining", **THEIRS)
    model = Bert(**SIZES, head="pretraining")
    tokens, mask = words(40), padding()
    state = {name: p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    variables = converted(model, state, bert.transformers("bert"), tokens)
    given = tensors(dict(input_ids=tokens, attention_mask=mask.astype(np.int32)))

    check_gradients(
        lambda v: model.apply(v, tokens, mask)["masked_lm"][:, :1],
        variables,
        theirs,
        lambda module: module(**given).prediction_logits[:, :1],
        bert.transformers("bert"),
    )


def test_sapiens_gives_the_golden_logits():
    """Real weights, of a RoBERTa, as fairseq saved them; the golden logits are those of transformers."""
    data = os.environ.get("DEEPMODELS_TEST_DATA")
    if not data:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder with real weights")
    torch = oracles.import_torch()
    with torch.serialization.safe_globals([argparse.Namespace]):  # its arguments, which our reader refuses
        saved = torch.load(Path(data) / "sapiens/sapiens/models/v1/checkpoint_vh.pt", "cpu", weights_only=True)
    arrays = {name: tensor.numpy() for name, tensor in saved["model"].items()}
    golden = np.load(Path(__file__).parent.parent / "golden/sapiens_vh.npz")
    model = Bert(25, 128, 4, 8, 256, 146, **ROBERTA | dict(num_segments=0), head="masked_lm")
    tokens = golden["ids"][None].astype(np.int32)
    variables = converted(model, arrays, bert.FAIRSEQ, tokens)
    assert_close("logits", jax.jit(model.apply)(variables, tokens)[0], golden["logits"])
