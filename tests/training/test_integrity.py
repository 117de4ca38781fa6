"""Digests: every flipped bit changes one, and no mesh does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from deepmodels import integrity, parallel
from deepmodels.errors import WeightsError
from deepmodels.training.checkpoint import Checkpoints
from deepmodels.weights import files

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8", "bool", "uint32"])
def test_each_bit_counts(dtype):
    array = np.array(RNG.normal(size=7), jnp.dtype(dtype))
    before = integrity.digests({"x": array})
    bits = 1 if dtype == "bool" else 8 * array.dtype.itemsize
    for element in range(array.size):
        for bit in range(bits):
            flipped = array.copy()
            raw = flipped.view(np.uint8).reshape(array.size, -1)
            raw[element, bit // 8] ^= 1 << bit % 8
            assert integrity.differing({"x": flipped}, before) == ["x"]


def test_places_count_and_names_too():
    array = RNG.normal(size=(300, 1000)).astype(np.float32)
    before = integrity.digests({"a": array, "b": array})
    swapped = array.copy()
    swapped[[0, 299]] = array[[299, 0]]
    assert integrity.differing({"a": swapped, "b": array}, before) == ["a"]
    assert integrity.differing({"a": array, "c": array}, before) == ["b", "c"]
    assert integrity.digests({"a": array.reshape(-1)})["a"] == before["a"], "the shape is checked elsewhere"


def test_every_mesh_and_every_share_give_the_same(monkeypatch):
    array = RNG.normal(size=(16, 6, 8)).astype(np.float32)
    whole = integrity.digests({"x": array})
    mesh = parallel.make_mesh({"data": 2, "fsdp": 4})
    for spec in (PartitionSpec(), PartitionSpec("fsdp"), PartitionSpec("data", None, "fsdp")):
        sharded = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
        assert integrity.digests({"x": sharded}) == whole
        shares = [(np.asarray(s.data), tuple(i.start or 0 for i in s.index), array.shape)
                  for s in sharded.addressable_shards if s.replica_id == 0]  # fmt: skip
        with monkeypatch.context() as patch:  # as where no process can reach them all
            patch.setattr(integrity, "_blocks", lambda _, shares=shares: shares)
            assert integrity.digests({"x": sharded}) == whole


def test_a_record_is_saved_as_it_was_when_it_was_given(tmp_path):
    """What is written a while later is what the digest is of, even if the run goes on adding to it."""
    state, record = {"x": jnp.arange(3.0)}, {"evaluations": [{"step": 1}]}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, record)
    record["evaluations"].append({"step": 2})
    checkpoints.wait()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"x": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
    assert checkpoints.restore(abstract).record == {"evaluations": [{"step": 1}]}
    checkpoints.close()


def test_weights_of_a_damaged_checkpoint_are_refused_by_leaf(tmp_path):
    """Those that another run starts from, too."""
    weight = np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    state = {"params": {"w": weight}, "variables": {}, "opt_state": {"m": jnp.arange(3.0)}}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, jax.device_put(state), {})
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "1"
    assert files.read(folder)["params/w"].tobytes() == weight.tobytes()
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match="not what was saved: params/w"):
        files.read(folder)


def test_metadata_that_keep_orbax_out_are_set_aside_when_the_folder_is_opened(tmp_path):
    """One bit in the name of a key, and orbax opens none of a run's checkpoints."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": jnp.arange(3.0) + step}, {"step": step})
    checkpoints.close()
    path = tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    damaged = path.read_text().replace("init_timestamp_nsecs", "init_timastamp_nsecs")
    assert damaged != path.read_text()
    path.write_text(damaged)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)})
    checkpoints.close()
    assert restored.record == {"step": 1}
    assert "checkpoint of step 2 is damaged" in restored.warnings[0]
    assert (tmp_path / "damaged" / "2" / path.name).read_text() == damaged
