"""Runs on texts: the one loop trains models of tokens, in batches of several lengths, and reports what they write."""

import json
import math

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import trees
from deepmodels.cli import main
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.parallel import prefetch
from deepmodels.training import decoding, experiment
from deepmodels.training.compiled import JitStep, PmapStep
from deepmodels.training.step import make_train_step

WORDS = ("we", "the", "people", "of", "state", "and", "union", "hold", "that", "all", "is", "told", "so")


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


@pytest.fixture
def texts(tmp_path):
    """A text, pairs of texts, and texts with labels."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(80)]
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    (tmp_path / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{s[:12]}\t{s[:9]}\n" for s in sentences))
    rows = "".join(f"{s}\t{'short' if len(s) < 10 else 'long'}\n" for s in sentences)
    (tmp_path / "labels.tsv").write_text("text\tlabel\n" + rows)
    return tmp_path


def config(model, objective, data, **values):
    return {
        "steps": 3, "model": model, "objective": {"name": objective}, "data": {"batch_size": 8} | data,
        "optimizer": {"name": "sgd", "learning_rate": 0.1}, "every": {"log": 1, "evaluate": 3, "checkpoint": 3},
    } | values  # fmt: skip


def pairs_config(texts, **values):
    data = {"name": "text_pairs", "path": str(texts / "pairs.tsv"), "tokenizer": "characters", "max_length": 16}
    return config({"name": "transformer_tiny"}, "sequence_to_sequence", data, **values)


def language_config(texts, **data):
    model = {"name": "lstm_ptb_tiny", "vocab_size": 260, "hidden_size": 4}
    options = {"name": "text", "path": str(texts / "text.txt"), "max_length": 16, "test_share": 0.15}
    return config(model, "language_modelling", options | data)


def test_what_a_model_of_tokens_cant_do(texts):
    packed = language_config(texts, name="documents", path=str(texts / "labels.tsv"))
    with pytest.raises(ConfigError, match="several documents in a row, which the model 'lstm_ptb_tiny' can't keep"):
        experiment.make(packed)
    chunked = language_config(texts)
    chunked["objective"]["chunk_size"] = 4
    with pytest.raises(ConfigError, match="the model 'lstm_ptb_tiny' can't leave its logits to the loss"):
        experiment.make(chunked)


def test_packed_documents_in_chunks_train_a_decoder_that_writes(texts, tmp_path, one_device, capsys):
    values = language_config(texts, name="documents", path=str(texts / "labels.tsv"))
    values["model"] = {"name": "gpt_tiny", "vocab_size": 260, "remat": "dots"}
    values["objective"] |= {"chunk_size": 4, "z_loss": 1e-4}
    result = deepmodels.train(values, tmp_path / "run", quiet=True)
    assert result.metrics.keys() == {"test/loss", "test/accuracy", "test/perplexity"}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "prediction" in report
    main(["sample", "--model", str(tmp_path / "run"), "--prompt", "we the", "--max-new-tokens", "4", "--json"])
    (written,) = json.loads(capsys.readouterr().out)
    assert 1 <= len(written["tokens"]) <= 4


def test_a_language_model(texts, tmp_path, one_device):
    result = deepmodels.train(language_config(texts), tmp_path / "run", quiet=True)
    assert result.metrics.keys() == {"test/loss", "test/accuracy", "test/perplexity"}
    np.testing.assert_allclose(result.metrics["test/perplexity"], math.exp(result.metrics["test/loss"]), rtol=1e-6)
    assert deepmodels.evaluate(tmp_path / "run") == result.metrics
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(lines[1]["perplexity"], math.exp(lines[1]["loss"]), rtol=1e-5)
    page = result.report.read_text()
    assert "<h2>Examples</h2>" in page
    assert "<tr><th>input</th><th>target</th><th>prediction</th></tr>" in page
    x = experiment.make(language_config(texts))
    assert x.sources["test"].tokenizer.decode(x.sources["test"][0]["tokens"]) in page


def test_the_last_batch_of_an_evaluation_counts_for_its_tokens(texts, one_device):
    """The mean over all target tokens, whatever the batch size, of pairs that all have other lengths."""
    found, values = [], pairs_config(texts)
    state = experiment.make(values).init()
    for size in (8, 3):
        x = experiment.make(values | {"data": values["data"] | {"batch_size": size}})
        assert len(x.sources["test"]) == 8
        found.append(experiment.make_evaluation(x)("test", state))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5)


def test_a_run_in_batches_of_several_lengths(texts, tmp_path, one_device):
    values = pairs_config(texts, steps=4)
    values["data"] |= {"buckets": (6, 16), "batch_size": 4}
    result = deepmodels.train(values, tmp_path / "run", quiet=True)
    assert int(result.state.step) == 4
    assert "<h2>Examples</h2>" in result.report.read_text()
    x = experiment.make(values)
    shapes = {batch["tokens"].shape for _, batch in zip(range(4), experiment.train_batches(x, 0), strict=False)}
    assert shapes == {(4, 6), (4, 16)}


@pytest.mark.parametrize("way", ["accumulate", "pmap"])
def test_parts_of_a_batch_count_for_their_tokens(texts, float64, monkeypatch, way):
    """The gradient of a batch with texts of many lengths is that of its parts, by their numbers of tokens."""
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[: 2 if way == "pmap" else 1])

    def trained(kind, **values):
        x = experiment.make(pairs_config(texts, precision="float64", **values))
        function = make_train_step(
            x.model, x.objective, x.optimizer, seed=0, precision="float64", accumulate=x.config.accumulate,
            axis_name=kind.axis_name,
        )  # fmt: skip
        places = jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
        step = kind(function, x.mesh, places)
        state = step.enter(jax.device_put(jax.device_get(jax.jit(x.init.__wrapped__)()), places))
        batch = next(prefetch(experiment.train_batches(x, 0), step.place))
        counts = np.asarray(batch["target_mask"]).reshape(8, -1).sum(1) - 1
        assert counts[::2].sum() != counts[1::2].sum()
        assert counts[:4].sum() != counts[4:].sum()
        state, metrics = step(state, batch)
        return step.leave(state), jax.device_get(metrics)

    whole, metrics = trained(JitStep)
    parts, same = trained(PmapStep, compile="pmap") if way == "pmap" else trained(JitStep, accumulate=2)
    for name, value in trees.flatten(whole.params).items():
        np.testing.assert_allclose(trees.flatten(parts.params)[name], value, atol=1e-12, err_msg=name)
    for name in ("loss", "accuracy", "perplexity"):
        np.testing.assert_allclose(np.mean(same[name]), metrics[name], rtol=1e-12)


@pytest.mark.parametrize("model", [{"name": "transformer_tiny"}, {"name": "luong_tiny", "target_vocab_size": 32}])
def test_what_a_model_writes_is_measured_and_shown(texts, tmp_path, one_device, model):
    """One beam is the likeliest token at each step; BLEU and the rest are of whole texts."""
    values = pairs_config(texts, decode={"metrics": ("sequence_accuracy", "word_error_rate"), "beam_size": 1})
    values |= {"model": {"vocab_size": 32, **model}, "steps": 2}
    result = deepmodels.train(values, tmp_path / "run", quiet=True)
    assert deepmodels.evaluate(tmp_path / "run") == result.metrics
    x, state = experiment.make(values), result.state
    source = x.sources["test"]
    written = decoding.write(x, state.params, state.variables)
    batch = source.get_batch(np.arange(len(source)))
    apply = jax.jit(lambda targets: x.model.apply({"params": state.params}, batch["tokens"], targets, batch["mask"]))
    tokens = np.full((len(source), 16), source.target_tokenizer.start_id, np.int32)
    for i in range(15):
        tokens[:, i + 1] = apply(tokens)[:, i].argmax(-1)
    ended = np.cumsum(tokens[:, 1:] == source.target_tokenizer.end_id, axis=1) > 0
    np.testing.assert_array_equal(written.tokens, np.where(ended, source.target_tokenizer.end_id, tokens[:, 1:]))
    assert written.references == [source.target_tokenizer.decode(row) for row in batch["targets"]]
    wrong = [a.split() != b.split() for a, b in zip(written.texts, written.references, strict=True)]
    assert result.metrics["test/sequence_accuracy"] == 1 - np.mean(wrong)
    page = result.report.read_text()
    assert "<tr><th>input</th><th>target</th><th>written</th></tr>" in page
    assert (tmp_path / "run/report/attention.png").stat().st_size > 1000
    first = decoding.look(x, state.params, state.variables, written)[0]
    assert first.weights.shape == (2 if "trans" in model["name"] else 1, len(first.written), len(first.source))
    np.testing.assert_allclose(first.weights.sum(-1), 1, rtol=1e-5)


def test_what_cant_be_decoded(texts):
    with pytest.raises(ConfigError, match=r"config.decode.metrics: no metric 'blue'.*did you mean 'bleu'"):
        decoding.check(experiment.make(pairs_config(texts, decode={"metrics": ("blue",)})))
    with pytest.raises(ConfigError, match=r"config.decode is for .*not for 'lstm_ptb_tiny' on 'text'"):
        decoding.check(experiment.make(language_config(texts) | {"decode": {}}))
    with pytest.raises(ConfigError, match="config.decode has no key 'beams'"):
        experiment.make(pairs_config(texts, decode={"beams": 2}))


def test_a_classifier_of_texts(texts, tmp_path, one_device):
    data = {"name": "text_classification", "path": str(texts / "labels.tsv"), "max_length": 16}
    model = {"name": "bert_micro", "vocab_size": 260, "num_classes": 2, "hidden_size": 4, "mlp_size": 4}
    result = deepmodels.train(config(model, "classification", data, steps=2), tmp_path / "run", quiet=True)
    page = result.report.read_text()
    assert "Confusion matrix" in page
    assert "<td>long</td>" in page
    assert "<td>short</td>" in page


@pytest.mark.parametrize(
    ("objective", "model", "data", "metric"),
    [
        ("masked_lm", dict(name="bert_micro", head="masked_lm"), {}, "perplexity"),
        (
            "pretraining",
            dict(name="bert_micro", head="pretraining"),
            dict(sentence_pairs=True),
            "next_sentence_accuracy",
        ),
        ("span_corruption", dict(name="t5_tiny"), {}, "perplexity"),
    ],
)
def test_objectives_know_the_vocabulary_from_the_data(texts, objective, model, data, metric):
    values = language_config(texts, **data) | {"model": {"vocab_size": 260} | model}
    x = experiment.make(values | {"objective": {"name": objective}})
    assert metric in experiment.metric_names(x)
    given = x.objective.keywords
    if objective == "span_corruption":
        assert given == {"sentinels": x.sources["train"].tokenizer.sentinels, "start_id": 1, "end_id": 2}
        # 16 tokens lose 2 in one span; both ends are added
        assert [spec.shape for spec in experiment.model_inputs(x)] == [(1, 16), (1, 4)]
    else:
        assert given == {"mask_id": 3, "special_ids": (0, 1, 2, 3), "vocab_size": 260}


def test_what_doesnt_fit_together(texts):
    values = language_config(texts)
    with pytest.raises(ConfigError, match=r"config.model.vocab_size: the tokenizer has 260 ids.*only 100 rows"):
        experiment.make(values | {"model": values["model"] | {"vocab_size": 100}})
    small = {"name": "seq2seq_tiny", "vocab_size": 99, "target_vocab_size": 5}
    with pytest.raises(ConfigError, match=r"config.model.target_vocab_size: .*only 5 rows"):
        experiment.make(pairs_config(texts) | {"model": small})
    positions = {"name": "bert_micro", "vocab_size": 260, "max_length": 8, "head": "masked_lm"}
    with pytest.raises(ShapeError, match="tokens: expected at most 8 positions, got 16"):
        experiment.make(values | {"model": positions, "objective": {"name": "masked_lm"}})
    words = values["data"] | {"tokenizer": "words"}
    with pytest.raises(ConfigError, match="sentinels: 16 tokens lose 1 spans, and the tokenizer has 0 sentinels"):
        experiment.make(
            values | {"data": words, "objective": {"name": "span_corruption"}, "model": {"name": "t5_tiny"}}
        )
