"""The step: cast, bind, accumulation, and equality over meshes and ways of compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels import models, objectives, trees
from deepmodels.errors import ConfigError
from deepmodels.parallel import prefetch, rules
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep, PmapStep
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, bind, cast_floats, dtype_of, make_train_step

MLP = {"name": "mlp", "num_classes": 10}


def trained(config, steps=3):
    """The state and the losses after a few steps of a config.

    The first state is always made on one device: Linen draws float32 numbers, and XLA may round their last bit in
    another way when it makes them in shards.
    """
    x = experiment.make(config)
    kind = {"jit": JitStep, "pmap": PmapStep}[x.config.compile]
    places = jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
    step = kind(experiment.make_step(x, kind.axis_name), x.mesh, places)
    first = jax.jit(x.init.__wrapped__)()
    state, losses = step.enter(jax.device_put(jax.device_get(first), places)), []
    for _, batch in zip(range(steps), prefetch(experiment.train_batches(x, 0), step.place), strict=False):
        state, metrics = step(state, batch)
        losses.append(np.mean(metrics["loss"]))
    return step.leave(state), np.array(losses)


def largest_difference(one, other):
    one, other = trees.flatten(jax.device_get(one)), trees.flatten(jax.device_get(other))
    assert one.keys() == other.keys()
    return max(np.max(np.abs(np.asarray(one[name], float) - np.asarray(other[name], float))) for name in one)


@pytest.fixture
def one_device(monkeypatch):
    """Runs a config as if there were one device."""

    def run(config):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
            return trained(config | {"mesh": {"data": 1}})

    return run


@pytest.fixture(params=["resnet_tiny", "mlp"])
def exact_config(request, tiny_config, tmp_path):
    """A float64 config: batch statistics and scans in one, a kernel large enough for the fsdp rule in the other."""
    config = tiny_config(model={"name": request.param, "num_classes": 10}, precision="float64")
    if request.param == "resnet_tiny":
        rng, path = np.random.default_rng(0), tmp_path / "tiny.npz"
        arrays = {"image": rng.integers(0, 256, (32, 8, 8, 3), np.uint8), "label": np.arange(32, dtype=np.int32) % 10}
        np.savez(path, **{f"{split}_{name}": array for split in ("train", "test") for name, array in arrays.items()})
        config["data"] = {"name": "npz", "path": str(path), "batch_size": 16}
    return config


MESHES = {"data": {"data": 8}, "fsdp": {"data": 1, "fsdp": 8}, "data x fsdp": {"data": 2, "fsdp": 4}}


def test_eight_devices_equal_one_device(exact_config, float64, one_device, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)  # so that the fsdp rule has something to shard in a tiny model
    config = exact_config | {"augment": {"random_flip": {}}}
    state, losses = one_device(config)
    assert losses.dtype == state.params["head"]["kernel"].dtype == np.float64
    batch_norm = config["model"]["name"] == "resnet_tiny"
    for name, mesh in MESHES.items():
        if batch_norm and name != "data x fsdp":
            continue  # compiling is what takes the time, and the other model covers these
        other, other_losses = trained(config | {"mesh": mesh})
        if "fsdp" in mesh:
            kernels = [leaf for leaf in jax.tree.leaves(other.params) if leaf.size >= 64 and leaf.ndim > 1]
            assert any(not leaf.sharding.is_fully_replicated for leaf in kernels)
        np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10, err_msg=name)
        assert largest_difference(state, other) <= 1e-10, name


def test_a_tensor_axis_equals_one_device(tiny_config, float64, one_device, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    config = tiny_config(model=MLP, precision="float64")
    state, losses = one_device(config)
    other, other_losses = trained(config | {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}})
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


def test_pmap_equals_one_device(exact_config, float64, one_device):
    state, losses = one_device(exact_config)
    other, other_losses = trained(exact_config | {"compile": "pmap", "mesh": {"data": 8}})
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


def test_pmap_is_for_pure_data_parallelism(tiny_config):
    with pytest.raises(ConfigError, match="pure data parallelism"):
        trained(tiny_config(compile="pmap", mesh={"data": 4, "fsdp": 2}))


def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny_config, float64):
    config = tiny_config(model=MLP, precision="float64", mesh={"data": 4, "fsdp": 2})
    state, losses = trained(config)
    other, other_losses = trained(config | {"accumulate": 2})
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_masters(tiny_config):
    seen = []

    def objective(forward, batch, key):
        seen.append(batch["image"].dtype)
        return objectives.classification(forward, batch, key)

    x = experiment.make(tiny_config(model={"name": "resnet_tiny"}, precision="bfloat16", mesh={"data": 8}))
    step = make_train_step(x.model, objective, x.optimizer, seed=0, precision="bfloat16", prepare=x.prepare)
    batch = {"image": jnp.zeros((8, 28, 28, 1), jnp.uint8), "label": jnp.zeros(8, jnp.int32)}
    state, metrics = jax.eval_shape(step, x.abstract, batch)
    assert seen == [jnp.bfloat16]
    assert metrics["loss"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.variables)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_trains(tiny_config):
    _, losses = trained(tiny_config(precision="bfloat16"), steps=20)
    assert losses[-5:].mean() < losses[:5].mean()


def test_a_step_is_a_function_of_seed_and_step(tiny_config):
    config = tiny_config(augment={"random_crop": {"padding": 2}})
    (one, losses), (same, same_losses), (other, _) = (
        trained(config),
        trained(config),
        trained(config | {"seed": 1}),
    )
    np.testing.assert_array_equal(losses, same_losses)
    assert largest_difference(one, same) == 0
    assert largest_difference(one, other) > 0


def test_a_step_moves_nothing_to_the_devices(tiny_config):
    x = experiment.make(tiny_config())
    step = JitStep(experiment.make_step(x, None), x.mesh, jax.tree.map(lambda leaf: leaf.sharding, x.abstract))
    batch = next(iter(experiment.train_batches(x, 0)))
    state, _ = step(x.init(), step.place(batch))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        step(state, {name: np.asarray(leaf) for name, leaf in batch.items()})


def test_precisions():
    assert dtype_of("bfloat16") == jnp.bfloat16
    with pytest.raises(ConfigError, match="did you mean 'float32'"):
        dtype_of("float3")
    with pytest.raises(ConfigError, match="JAX_ENABLE_X64"):
        dtype_of("float64")
    tree = cast_floats({"x": jnp.ones(2), "n": jnp.ones(2, jnp.int32)}, jnp.bfloat16)
    assert tree["x"].dtype == jnp.bfloat16
    assert tree["n"].dtype == jnp.int32


def test_bind_updates_statistics_only_while_training():
    model = models.create("resnet_tiny")
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = dict(jax.jit(model.init)(jax.random.key(1), images))
    params = variables.pop("params")
    forward = jax.jit(lambda train: bind(model, params, variables, train=train)(images)[1], static_argnums=0)
    same, changed = forward(False), forward(True)
    assert largest_difference(variables, same) == 0
    assert largest_difference(variables, changed) > 0


def test_a_notebooks_own_loop():
    """The parts work without config, loop or mesh."""
    model = models.create("mlp_tiny")
    optimizer, _ = make_optimizer({"name": "adam", "learning_rate": 0.01}, 20)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params))
    step = jax.jit(make_train_step(model, objectives.create("classification"), optimizer, seed=0))
    batch = {"image": images, "label": jnp.arange(8, dtype=jnp.int32)}
    losses = []
    for _ in range(20):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 20
    assert optax.tree.norm(state.params) > 0


def test_parameters_are_created_sharded(tiny_config):
    """Each leaf is made where it belongs, and is what one device makes."""
    x = experiment.make(tiny_config(model=MLP, mesh={"data": 1, "fsdp": 8}))
    state = x.init()
    kernel = state.params["hidden0"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    assert state.opt_state[0][0][0].trace["hidden0"]["kernel"].sharding == kernel.sharding
    one = jax.jit(x.init.__wrapped__)()
    np.testing.assert_allclose(kernel, one.params["hidden0"]["kernel"], rtol=1e-5)


@pytest.mark.parametrize("key", ["shard_optimizer", "offload_optimizer"])
def test_an_optimizers_state_elsewhere_changes_nothing(tiny_config, float64, key):
    """Divided over data as well, or in the host's memory, but for the moving average, which evaluation reads."""
    optimizer = {"name": "adam", "learning_rate": 0.01, "ema": 0.9, "clip_norm": 1.0}
    config = tiny_config(model=MLP, precision="float64", mesh={"data": 4, "fsdp": 2}, optimizer=optimizer)
    state, losses = trained(config)
    other, other_losses = trained(config | {key: True})
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10
    before, after = (
        {name: leaf.sharding for name, leaf in trees.flatten(s.opt_state).items() if leaf.size >= rules.SMALL}
        for s in (state, other)
    )
    assert len(before) >= 3
    for name, place in after.items():
        if key == "offload_optimizer":
            assert place.memory_kind == ("device" if name.startswith("params/") else "pinned_host")
        else:
            assert place.spec != before[name].spec
            assert "data" in str(place.spec)


@pytest.mark.parametrize("key", ["shard_optimizer", "offload_optimizer"])
def test_pmap_keeps_the_whole_state_on_each_device(tiny_config, key):
    with pytest.raises(ConfigError, match=f"{key} is for config.compile='jit'"):
        experiment.make(tiny_config(compile="pmap", **{key: True}))
