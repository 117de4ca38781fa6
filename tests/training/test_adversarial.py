"""Two players: who moves when and by what, meshes, runs that are cut short, and the pictures they leave."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from test_step import largest_difference, trained

import deepmodels
from deepmodels import augment, models, objectives, trees
from deepmodels.errors import ConfigError
from deepmodels.parallel import rules
from deepmodels.training import TrainingError, TrainState, make_adversarial_step, players
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import Adaptive, augmenting, of_model
from deepmodels.weights import files

RNG = np.random.default_rng(0)
GAN = {"name": "gan_tiny", "image_shape": (28, 28, 1)}


@pytest.fixture
def config(tiny_config):
    def make(**values):
        values = {"model": GAN, "objective": {"name": "adversarial"}} | values
        return tiny_config(data={"name": "fashion_mnist_embedded", "batch_size": 16}, **values)

    return make


def test_the_critic_moves_on_its_parts_of_the_batch_and_the_generator_once():
    model, optimizer = models.create("gan_tiny"), optax.sgd(0.1)
    images = jnp.asarray(RNG.random((6, 8, 8, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    state = {name: optimizer.init({name: params[name]}) for name in model.players}
    state = TrainState(jnp.int32(4), params, {}, state)
    step = make_adversarial_step(model, objectives.adversarial, optimizer, seed=0, critic_steps=3)
    after, metrics = jax.jit(step)(state, {"image": images})

    @jax.jit
    def by_hand(params):
        key, losses = jax.random.fold_in(jax.random.key(0), 4), []
        moves = [("discriminator", i, images[i::3]) for i in range(3)] + [("generator", 3, images[2::3])]
        for player, i, part in moves:

            def loss(own, params=params, player=player, i=i, part=part):
                def forward(images, key=None, **named):
                    return model.apply({"params": params | {player: own}}, images, **named), {}

                return objectives.adversarial(forward, {"image": part}, jax.random.fold_in(key, i), player=player)[0]

            value, grads = jax.value_and_grad(loss)(params[player])
            losses.append(value)
            params = params | {player: jax.tree.map(lambda p, g: p - 0.1 * g, params[player], grads)}
        return params, jnp.stack(losses)

    wanted, losses = by_hand(params)
    assert largest_difference(after.params, wanted) < 1e-6
    assert largest_difference(after.params, params) > 1e-4
    np.testing.assert_allclose(metrics["loss"], losses[:3].mean() + losses[3], rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator_loss"], losses[:3].mean(), rtol=1e-5)
    assert int(after.step) == 5
    apart = players(after)
    assert apart.keys() == {"discriminator", "generator"}
    assert trees.count(apart["generator"].params) + trees.count(apart["discriminator"].params) == 2217


def test_on_any_mesh_two_players_are_those_of_one_device(config, float64, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    values = config(
        model={"name": "dcgan_tiny", "image_shape": (28, 28, 1), "channels": 4, "critic_channels": 4},
        precision="float64",
        critic_steps=2,
        optimizer={"name": "adam", "learning_rate": 1e-3, "b1": 0.5, "ema": 0.9},
    )
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
        state, losses = trained(values, steps=2)
    other, other_losses = trained(values | {"mesh": {"data": 2, "fsdp": 4}}, steps=2)
    kernels = trees.flatten(other.params)
    assert not kernels["generator/conv0/kernel"].sharding.is_fully_replicated
    moments = trees.flatten(other.opt_state["generator"])
    mu = next(leaf for name, leaf in moments.items() if name.endswith("mu/generator/conv0/kernel"))
    assert mu.sharding == kernels["generator/conv0/kernel"].sharding
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


def test_a_run_of_two_players_goes_on_bit_for_bit_and_leaves_pictures(config, tmp_path, one):
    values = config(optimizer={"name": "adam", "learning_rate": 1e-3, "ema": 0.5}, critic_steps=2)
    whole = deepmodels.train(values, tmp_path / "whole", quiet=True)
    deepmodels.train(values | {"steps": 4}, tmp_path / "parts", quiet=True)
    parts = deepmodels.train(values, tmp_path / "parts", quiet=True)
    assert largest_difference(whole.state, parts.state) == 0
    assert whole.metrics == parts.metrics
    assert whole.metrics.keys() >= {"test/generator_loss", "test/discriminator_loss", "test/loss"}
    drawn = sorted(path.name for path in (tmp_path / "whole" / "pictures").iterdir())
    assert drawn == ["samples-0000003.png", "samples-0000006.png"]
    pixels = np.asarray(Image.open(tmp_path / "whole" / "pictures" / drawn[-1]))
    assert pixels.shape == (8 * 30 - 2, 8 * 30 - 2)
    assert len(np.unique(pixels)) > 10
    again = np.asarray(Image.open(tmp_path / "parts" / "pictures" / drawn[-1]))
    np.testing.assert_array_equal(pixels, again)
    assert 'alt="samples"' in whole.report.read_text()
    averaged = whole.state.opt_state["generator"].params["generator"]
    assert largest_difference(averaged, whole.state.params["generator"]) > 0
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-2])
    assert np.isfinite(last["test/loss"])


def test_what_is_for_one_player_is_refused(config, tiny_config, tmp_path):
    for values, message in (
        (config(accumulate=2), "config.accumulate is for one player"),
        (config(compile="pmap"), "config.compile='pmap' is for one player"),
        (config(optimizer={"name": "sgd", "learning_rate": 1.0, "freeze": "generator.*"}), "freeze is for one player"),
        (config(lora={"rank": 2}), "config.lora is for one player"),
        (tiny_config(critic_steps=2), "'lenet_tiny' has no two players"),
        (config(critic_steps=3), "config.data.batch_size=16 can't be divided by"),
        (config(critic_steps=0), "config.critic_steps is a positive whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            deepmodels.train(values, tmp_path, quiet=True)


def test_no_checkpoint_is_saved_after_a_step_that_was_not_finite(config, tmp_path, one, monkeypatch):
    """Metrics are read every fourth step, checkpoints saved at every one: the fifth step is bad."""
    real = objectives.OBJECTIVES["adversarial"]

    def breaks(forward, batch, key, **named):
        loss, (metrics, variables) = real(forward, batch, key, **named)
        wrong = jnp.where(batch["image"].max() > 0, jnp.nan, 1.0).astype(loss.dtype)
        return loss * (wrong if breaks.now else 1), (metrics, variables)

    values = config(steps=8, every={"log": 4, "evaluate": 100, "checkpoint": 1}, keep={"last": 100})
    values["data"] = values["data"] | {"batch_size": 8}
    breaks.now = False
    monkeypatch.setitem(objectives.OBJECTIVES, "adversarial", breaks)
    deepmodels.train(values | {"steps": 4}, tmp_path, quiet=True)
    breaks.now = True
    with pytest.raises(TrainingError, match=r"the loss of step 5 is nan.*the checkpoints before it stand"):
        deepmodels.train(values, tmp_path, quiet=True)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [1, 2, 3, 4]
    breaks.now = False
    assert np.isfinite(deepmodels.evaluate(tmp_path)["test/generator_loss"])


def test_an_optimizer_for_each(config):
    optimizer, _ = make_optimizer({"name": "adam", "learning_rate": 1e-3}, 1)
    x = deepmodels.training.experiment.make(config(optimizer={"name": "adam", "learning_rate": 1e-3}))
    assert x.abstract.opt_state.keys() == {"discriminator", "generator"}
    own = {"generator": x.abstract.params["generator"]}
    wanted = jax.eval_shape(optimizer.init, own)
    assert jax.tree.structure(wanted) == jax.tree.structure(x.abstract.opt_state["generator"])


def test_the_probability_of_augmentation_follows_how_sure_the_critic_is_of_real_pictures():
    adaptive = Adaptive(target=0.6, images=100)
    p = jnp.float32(0.5)
    assert float(adaptive(p, jnp.float32(0.9), 10)) == pytest.approx(0.6)
    assert float(adaptive(p, jnp.float32(0.2), 10)) == pytest.approx(0.4)
    assert float(adaptive(p, jnp.float32(0.6), 10)) == 0.5
    assert float(adaptive(jnp.float32(0.95), jnp.float32(1), 10)) == 1
    assert float(adaptive(jnp.float32(0.05), jnp.float32(-1), 10)) == 0


def test_each_move_of_the_critic_adapts_the_probability_and_the_generators_does_not():
    model, optimizer = models.create("gan_tiny"), optax.sgd(0.1)
    images = jnp.asarray(RNG.random((6, 8, 8, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    opt_state = {name: optimizer.init({name: params[name]}) for name in model.players}
    state = TrainState(jnp.int32(0), params, {"augmentation": {"probability": jnp.float32(0.5)}}, opt_state)
    named = dict(seed=0, critic_steps=2, adaptive=Adaptive(target=0.6, images=60))
    after, metrics = jax.jit(make_adversarial_step(model, objectives.adversarial, optimizer, **named))(
        state, {"image": images}
    )
    assert metrics["real_sign"] in (-1, 1)  # both moves, of three pictures each, agree
    wanted = 0.5 + 2 * (0.05 if metrics["real_sign"] > 0.6 else -0.05)
    assert float(after.variables["augmentation"]["probability"]) == pytest.approx(wanted)
    assert float(metrics["augmentation_probability"]) == pytest.approx(0.5 + 0.75 * (wanted - 0.5))


def test_adaptive_augmentation_is_of_both_players_and_goes_on_bit_for_bit(config, tmp_path, one, monkeypatch):
    values = config(critic_steps=2, adaptive_augment={"images": 160})
    plain = deepmodels.train(values | {"adaptive_augment": None}, tmp_path / "plain", quiet=True)
    with monkeypatch.context() as patch:  # however sure the critic is
        patch.setattr(Adaptive, "__call__", lambda self, probability, sign, count: probability)
        off = deepmodels.train(values, tmp_path / "off", quiet=True)
        assert largest_difference(off.state.params, plain.state.params) == 0  # at 0 nothing is changed
        patch.setattr(Adaptive, "__call__", lambda self, probability, sign, count: probability + count / self.images)
        whole = deepmodels.train(values, tmp_path / "whole", quiet=True)
        deepmodels.train(values | {"steps": 4}, tmp_path / "parts", quiet=True)
        parts = deepmodels.train(values, tmp_path / "parts", quiet=True)
    assert float(whole.state.variables["augmentation"]["probability"]) == pytest.approx(6 * 16 / 160)
    read = files.read(tmp_path / "whole" / "checkpoints" / str(int(whole.state.step)))  # as weights, the model's alone
    assert {name.partition("/")[0] for name in read} == {"params", *of_model(whole.state.variables)}
    assert largest_difference(whole.state, parts.state) == 0
    assert whole.metrics == parts.metrics
    for player in ("discriminator", "generator"):
        assert largest_difference(whole.state.params[player], plain.state.params[player]) > 0


def test_the_augmented_are_what_is_discriminated_and_nothing_else():
    model = models.create("gan_tiny")
    images = jnp.asarray(RNG.random((4, 8, 8, 1)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    plain = model.apply(variables, images)
    with augmenting(jax.random.key(1), jnp.float32(1)):
        seen = model.apply(variables, images)
    np.testing.assert_array_equal(seen["fake"], plain["fake"])
    for name in ("real_logits", "fake_logits"):
        assert (np.abs(seen[name] - plain[name]) > 1e-6).all()
    key = jax.random.fold_in(jax.random.key(1), 3)
    for number, (name, given) in enumerate({"real_logits": images, "fake_logits": plain["fake"]}.items()):
        changed = augment.discriminator_augment(jax.random.fold_in(key, number), given, jnp.float32(1))
        np.testing.assert_allclose(model.apply(variables, changed, method="discriminate"), seen[name], rtol=1e-6)


def test_adaptive_augmentation_is_refused_where_nothing_could_be_augmented(config, tiny_config, tmp_path):
    cyclegan = {"model": {"name": "cyclegan_tiny"}, "objective": {"name": "cycle_consistency"}}
    for values, message in (
        (config(adaptive_augment={}, **cyclegan), "config.adaptive_augment is for a discriminator of pictures alone"),
        (tiny_config(adaptive_augment={}), "not 'lenet_tiny' with 'classification'"),
        (config(adaptive_augment={"images": 0}), "config.adaptive_augment.images is a positive whole number"),
        (config(adaptive_augment={"target": 1.5}), "config.adaptive_augment.target: expected a mean of signs"),
        (config(adaptive_augment={"aim": 1}), "config.adaptive_augment has no key 'aim'"),
    ):
        with pytest.raises(ConfigError, match=message):
            deepmodels.train(values, tmp_path, quiet=True)
