"""What a frozen classifier says of samples, beside the same by hand."""

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import evaluation
from deepmodels.errors import ConfigError
from deepmodels.training import experiment, judging

NAMES = ("fid", "kid", "precision", "recall", "recognised", "classes")


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


@pytest.fixture
def config(tiny_config):
    def make(**values):
        return tiny_config(
            **{
                "steps": 2,
                "model": {"name": "dcgan_tiny", "image_shape": (28, 28, 1), "channels": 4, "critic_channels": 4},
                "objective": {"name": "adversarial"},
                "data": {"name": "fashion_mnist_embedded", "batch_size": 16, "mean": 0.5, "std": 0.5},
                "optimizer": {"name": "adam", "learning_rate": 1e-3, "ema": 0.5},
                "frozen": {"judge": {"model": {"name": "lenet_tiny"}, "mean": 0.286, "std": 0.353}},
                "judge": {"samples": 40},
                "every": {"log": 2, "evaluate": 1, "checkpoint": 1},
            }
            | values
        )

    return make


def test_a_run_of_two_players_is_judged(config, tmp_path, one):
    values = config(keep={"last": 1, "best": "test/fid", "mode": "min"})
    result = deepmodels.train(values, tmp_path, quiet=True)
    assert result.metrics.keys() > {f"test/{name}" for name in NAMES}
    assert deepmodels.evaluate(tmp_path) == result.metrics

    model, variables, _ = deepmodels.training.load_run(tmp_path)  # averaged, as what is judged
    sample = jax.jit(lambda v, n: model.apply(v, jax.random.fold_in(jax.random.key(0), n), 16, method="sample"))
    made = np.concatenate([sample(variables, n) for n in range(3)])[:40] * 0.5 + 0.5
    x = experiment.make(values)
    test = x.sources["test"]
    real = np.stack([test[i * len(test) // 40]["image"] for i in range(40)]) / np.float32(255)
    judge, weights = x.frozen["judge"].model, result.state.variables["frozen"]["judge"]

    def features(pixels):
        inputs = np.float32((pixels - 0.286) / 0.353)
        _, state = judge.apply(weights, inputs, capture_intermediates=True, mutable="intermediates")
        outputs = state["intermediates"]
        return np.maximum(outputs["dense2"]["__call__"][0], 0), jax.nn.softmax(outputs["head"]["__call__"][0])

    (ours, probabilities), (theirs, _) = features(made), features(real)
    precision, recall = evaluation.precision_recall(ours, theirs)
    wanted = {
        "fid": evaluation.frechet_distance(ours, theirs),
        "kid": evaluation.kernel_distance(ours, theirs),
        "precision": precision,
        "recall": recall,
        **evaluation.recognition(probabilities),
    }
    assert wanted.keys() == set(NAMES)
    for name, value in wanted.items():
        np.testing.assert_allclose(result.metrics[f"test/{name}"], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_each_class_is_sampled_as_often_and_reals_are_seen_once(config, one, monkeypatch):
    labels = []
    values = config(
        model={"name": "vae_tiny", "image_shape": (28, 28, 1), "num_classes": 10},
        objective={"name": "elbo", "conditional": True},
        data={"name": "fashion_mnist_embedded", "batch_size": 16, "validation_size": 40},
        judge={"samples": 100},
    )
    x = experiment.make(values)
    judging.check(x)
    state, apply = x.init(), type(x.model).apply

    def listening(self, *arguments, method=None, **named):
        labels.append(named.get("label"))
        return apply(self, *arguments, method=method, **named)

    monkeypatch.setattr(type(x.model), "apply", listening)
    judging._sampled(x, state.params, state.variables, 3)
    np.testing.assert_array_equal(labels[-1], (48 + np.arange(16)) % 10)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])

    evaluate = judging.judged(x, lambda split, state: {f"{split}/loss": 1.0})
    first = evaluate("validation", state)
    assert first.keys() == {f"validation/{name}" for name in ("loss", *NAMES)}  # of 40 reals beside 100 samples
    monkeypatch.setattr(deepmodels.data, "evaluation_batches", None)
    assert evaluate("validation", state) == first


def test_on_a_mesh_it_is_the_same(config, monkeypatch):
    def values_on(mesh):
        x = experiment.make(config(mesh=mesh))
        first = jax.device_put(jax.device_get(start), jax.tree.map(lambda leaf: leaf.sharding, x.abstract))
        return judging.judged(x, lambda *_: {})("test", first)

    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
        start = experiment.make(config()).init()
        wanted = values_on({"data": 1})
    for name, value in values_on({"data": 2, "fsdp": 4}).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_recognition_in_closed_form():
    sure = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    assert evaluation.recognition(sure) == pytest.approx({"recognised": 1.0, "classes": 4.0})
    assert evaluation.recognition(sure[[0, 0, 0]]) == pytest.approx({"recognised": 1.0, "classes": 1.0})
    assert evaluation.recognition(np.full((5, 4), 0.25)) == pytest.approx({"recognised": 0.25, "classes": 4.0})


def test_a_trunk_knows_no_classes(config):
    x = experiment.make(config(frozen={"judge": {"model": {"name": "mobilenet_tiny", "num_classes": 0}}}))
    assert judging.metric_names(x) == ["fid", "kid", "precision", "recall"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"judge": {"network": "jugde"}}, r"config.frozen has no network 'jugde': did you mean 'judge'"),
        ({"judge": {"samples": 3}}, r"config.judge.samples: expected more than 3, and a split of more, got 3"),
        ({"judge": {"sample": 3}}, r"config.judge has no key 'sample': did you mean 'samples'"),
        ({"judge": {"samples": 0}}, r"config.judge.samples is a positive whole number"),
        ({"keep": {"best": "test/fdi"}}, r"no metric 'test/fdi' is measured: did you mean 'test/fid'"),
        (
            {"model": {"name": "lenet_tiny", "num_classes": 10}, "objective": {"name": "classification"}},
            r"config.judge is for a model that samples pictures, which 'lenet_tiny' doesn't",
        ),
    ],
)
def test_what_cannot_be_judged_is_an_error(config, values, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        deepmodels.train(config(**values), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
