"""A checkpoint comes back on any mesh as it was, or not at all: other trees are refused by name."""

import gc
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from deepmodels import integrity, parallel
from deepmodels.errors import CheckpointError
from deepmodels.training.checkpoint import Checkpoints, examine, look, saved_steps

CASES = os.environ.get("FUZZ_CASES")
MESHES = {1: {"data": 1}, 2: {"fsdp": 2}, 4: {"data": 2, "fsdp": 2}, 8: {"data": 2, "fsdp": 2, "tensor": 2}}
DTYPES = ("float32", "bfloat16", "float16", "int32", "int8", "uint32", "bool")
# Of several reads that fail at once orbax reports one; asyncio mentions the others when it collects them.
leftovers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step: int) -> dict:
    """A leaf of noise of each dtype, one that nothing divides, and the step."""
    rng = np.random.default_rng(step)
    leaves = {name: np.asarray(rng.normal(size=(16, 24)) * 9, jnp.dtype(name)) for name in DTYPES}
    return {"params": leaves, "odd": rng.normal(size=(3, 5)).astype(np.float32), "step": np.int32(step)}


def places(count: int, state: dict) -> dict:
    """Where each leaf belongs on the mesh of so many devices."""
    mesh = parallel.make_mesh(MESHES[count] | ({"data": 1} if count == 2 else {}), jax.devices()[:count])
    axes = [axis for axis in ("fsdp", "tensor") if mesh.shape.get(axis, 1) > 1]
    divided = NamedSharding(mesh, PartitionSpec(*axes))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: divided if leaf.shape == (16, 24) else whole, state)


def abstract(state: dict, count: int = 1) -> dict:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places(count, state)
    )


def saved(workdir: Path, *steps: int, count: int = 1) -> Path:
    checkpoints = Checkpoints(workdir)
    for step in steps:
        checkpoints.save(step, jax.device_put(state_of(step), places(count, state_of(step))), {"step": step})
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("template") / "run", 1, 2)


@pytest.mark.parametrize("first", [8, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 2, 4))])
def test_every_mesh_reads_what_any_has_saved(tmp_path, first, record_property):
    """From 8 devices to 4, 2 and 1 and back, each from what the one before has saved again.

    `pytest -m slow tests/training/test_checkpoint.py` begins with each of the others too.
    """
    wanted = integrity.sha256(state_of(1))
    saved(tmp_path / str(first), 1, count=first)
    before = first
    for count in [count for count in (8, 4, 2, 1, 2, 4, 8) if count != first]:
        restored = look(tmp_path / str(before), abstract(state_of(1), count)).state
        assert integrity.sha256(restored) == wanted
        assert jax.tree.map(lambda leaf: leaf.sharding, restored) == places(count, state_of(1))
        shutil.rmtree(tmp_path / str(count), ignore_errors=True)
        checkpoints = Checkpoints(tmp_path / str(count))
        checkpoints.save(1, restored, {})
        checkpoints.close()
        before = count
    record_property("trials", 6 if first in (1, 8) else 5)


MISFITS = {
    "missing": (lambda s: s | {"new": s["odd"]}, "new is missing"),
    "extra": (lambda s: {"params": s["params"], "step": s["step"]}, "odd isn't in the model"),
    "renamed": (lambda s: {"params": s["params"], "step": s["step"], "even": s["odd"]}, "even is missing; odd isn't"),
    "shape": (lambda s: s | {"odd": s["odd"].T}, r"odd is float32\[3, 5\], the model has float32\[5, 3\]"),
    "rank": (lambda s: s | {"odd": s["odd"][None]}, r"odd is float32\[3, 5\], the model has float32\[1, 3, 5\]"),
    "narrower": (lambda s: s | {"odd": jnp.bfloat16(s["odd"])}, r"odd is float32\[3, 5\], the model has bfloat16\["),
    "integers": (lambda s: s | {"odd": s["odd"].astype(np.int32)}, r"odd is float32\[3, 5\], the model has int32\["),
    "wider": (lambda s: s | {"odd": s["odd"].astype(np.float64)}, r"odd is float32\[3, 5\], the model has float64\["),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("count", [1, 8])
def test_another_tree_shape_or_dtype_is_refused_by_name_before_any_weight_is_read(template, monkeypatch, misfit, count):
    from orbax.checkpoint import v1 as ocp

    change, said = MISFITS[misfit]
    monkeypatch.setattr(ocp, "load_checkpointables", lambda *_: pytest.fail("weights were read"))
    for restore in (lambda a: Checkpoints(template).restore(a), lambda a: look(template, a)):
        with pytest.raises(CheckpointError, match=f"2 doesn't fit the model: .*{said}"):
            restore(abstract(change(state_of(2)), count))
    assert saved_steps(template) == [1, 2], "it isn't damaged, and stays"


def test_too_little_memory_is_no_damage(template, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def load(*_):
        try:
            raise MemoryError("Unable to allocate 4.00 TiB")
        except MemoryError as error:
            raise ValueError("failed to load") from error

    monkeypatch.setattr(ocp, "load_checkpointables", load)
    with pytest.raises(CheckpointError, match=r"2 doesn't fit into memory \(MemoryError: Unable .* left as it is"):
        Checkpoints(template).restore(abstract(state_of(1)))
    assert saved_steps(template) == [1, 2]


def rewritten(path: Path, change) -> None:
    """Changes a file of JSON, as an attacker would or a disk might."""
    tree = json.loads(path.read_text())
    changed = change(tree)
    path.write_text(json.dumps(tree if changed is None else changed))


def in_database(folder: Path, key: str, change) -> None:
    """Changes what the checkpoint's database says of an array; its checksums are right again."""
    import tensorstore as ts

    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/"}).result()
    store.write(key, json.dumps(change(json.loads(store.read(key).result().value)))).result()


def _renamed(tree: dict) -> dict:
    return json.loads(json.dumps(tree).replace('"odd"', '"old"').replace("'odd'", "'old'"))


def _deleted(*path: str):
    def change(tree: dict) -> None:
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return change


HUGE = [10**6, 10**6]
CRAFTED = {
    "a leaf of the tree has another name": ("state/_METADATA", _renamed),
    "a leaf of the tree is gone": ("state/_METADATA", _deleted("tree_metadata", "('odd',)")),
    "the tree is empty": ("state/_METADATA", lambda tree: tree | {"tree_metadata": {}}),
    "another format": ("state/_METADATA", lambda tree: tree | {"use_ocdbt": False}),
    "a digest": (
        "_CHECKPOINT_METADATA",
        lambda tree: tree["custom_metadata"]["digests"].update({"odd": "0" * 16}),
    ),
    "what a leaf is": (
        "_CHECKPOINT_METADATA",
        lambda tree: tree["custom_metadata"]["leaves"].update({"odd": "float32[5, 3]"}),
    ),
    "the record": ("_CHECKPOINT_METADATA", lambda tree: tree["custom_metadata"]["record"].update({"step": 9})),
    "no record": ("_CHECKPOINT_METADATA", _deleted("custom_metadata", "record")),
    "no digests": ("_CHECKPOINT_METADATA", _deleted("custom_metadata", "digests")),
    "nothing of ours": ("_CHECKPOINT_METADATA", lambda tree: tree | {"custom_metadata": {}}),
    "terabytes": ("odd/zarr.json", lambda array: array | {"shape": HUGE}),
    "terabytes in one piece": (
        "odd/zarr.json",
        lambda array: (
            array | {"shape": HUGE, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": HUGE}}}
        ),
    ),
    "another dtype": ("odd/zarr.json", lambda array: array | {"data_type": "int32"}),
    "other dimensions": ("odd/zarr.json", lambda array: array | {"shape": [5, 3]}),
}


QUICK = ("a leaf of the tree has another name", "what a leaf is", "no digests", "terabytes")


@leftovers
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICK)) for c in CRAFTED])
def test_a_description_that_was_changed_is_damage_and_the_step_before_is_used(template, tmp_path, case):
    """What still parses, too: it isn't taken for the checkpoint of another model, which would stop the run.

    `pytest -m slow tests/training/test_checkpoint.py` has the others.
    """
    workdir, (name, change) = tmp_path / "run", CRAFTED[case]
    shutil.copytree(template, workdir)
    folder = workdir / "checkpoints" / "2"
    if name.endswith("zarr.json"):
        in_database(folder / "state", name, change)
    else:
        rewritten(folder / name, change)
    with pytest.raises(CheckpointError, match="checkpoint of step 2: "):
        examine(workdir, 2)
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(abstract(state_of(1)))
    checkpoints.close()
    gc.collect()
    assert integrity.sha256(restored.state) == integrity.sha256(state_of(1))
    assert "checkpoint of step 2 is damaged (" in restored.warnings[0]
    assert (workdir / "damaged" / "2").is_dir()


@pytest.mark.parametrize("kept", [{"record", "record_digest", "digests"}, {"record"}])
def test_checkpoints_of_older_versions_are_read(template, tmp_path, kept):
    shutil.copytree(template, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    rewritten(
        path,
        lambda tree: tree | {"custom_metadata": {name: tree["custom_metadata"][name] for name in kept}},
    )
    restored = Checkpoints(tmp_path / "run").restore(abstract(state_of(1)))
    assert integrity.sha256(restored.state) == integrity.sha256(state_of(2))
    assert ["unchecked" in line for line in restored.warnings] == [True] * ("digests" not in kept)
    with pytest.raises(CheckpointError, match="doesn't fit the model: new is missing"):
        look(tmp_path / "run", abstract(state_of(1) | {"new": np.zeros(3)}))


@pytest.mark.parametrize("handlers", [{"state": "os.system"}, {"state": "deepmodels.cli.main"}, {}])
def test_a_program_that_a_checkpoint_names_is_not_looked_up(template, tmp_path, monkeypatch, handlers):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it was called"))
    shutil.copytree(template, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "2"
    rewritten(folder / "_CHECKPOINT_METADATA", lambda tree: tree | {"item_handlers": handlers})
    restored = Checkpoints(tmp_path / "run").restore(abstract(state_of(1)))
    assert integrity.sha256(restored.state) == integrity.sha256(state_of(2))


@leftovers
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt"])
def test_records_changed_at_random(template, tmp_path, name, record_property):
    """`FUZZ_CASES=2000 pytest tests/training/test_checkpoint.py` tries a tenth of that of each."""
    whole, counts = (template / "checkpoints" / "2" / name).read_bytes(), {"set aside": 0, "harmless": 0}
    wanted = {step: integrity.sha256(state_of(step)) for step in (1, 2)}

    @settings(
        max_examples=int(CASES or 50) // 10, deadline=None, database=None, derandomize=CASES is None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, len(whole) - 1), st.integers(0, 20), st.binary(max_size=20))
    def one(begin, length, put):
        workdir = tmp_path / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(template, workdir)
        (workdir / "checkpoints" / "2" / name).write_bytes(whole[:begin] + put + whole[begin + length :])
        checkpoints = Checkpoints(workdir)
        restored = checkpoints.restore(abstract(state_of(1)))
        checkpoints.close()
        step = int(restored.state["step"])
        assert integrity.sha256(restored.state) == wanted[step]
        assert restored.record == {"step": step}
        assert saved_steps(workdir) == ([1, 2] if step == 2 else [1])
        counts["harmless" if step == 2 else "set aside"] += 1

    one()
    gc.collect()
    record_property("trials", sum(counts.values()))
    for what, count in counts.items():
        record_property(what, count)
