"""Meshes, the placement of batches, and the rules that place parameters."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from deepmodels import parallel, trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.parallel.mesh import hybrid


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


def specs(tree, **axes):
    mesh = parallel.make_mesh(axes)
    return {name: place.spec for name, place in trees.flatten(parallel.shardings(tree, mesh)).items()}


def test_minus_one_takes_what_is_left():
    mesh = parallel.make_mesh({"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1, "sequence": 1, "expert": 1, "pipeline": 1}
    assert parallel.sizes(mesh) == {"data": 4, "fsdp": 2}
    assert parallel.written(mesh.shape) == "data=4 x fsdp=2"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"dat": 8}, "no axis 'dat': did you mean 'data'"),
        ({"data": 3}, "asks for 3 devices, there are 8"),
        ({"data": -1, "fsdp": 3}, "8 devices can't be divided by 3"),
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"data": 0}, "sizes are positive"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(ConfigError, match=message):
        parallel.make_mesh(axes)


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "expert": 2, "sequence": 2}])
def test_batches_are_sharded_over_data_fsdp_and_expert(axes):
    mesh = parallel.make_mesh(axes)
    rows = np.arange(8, dtype=np.float32)
    placed = parallel.place({"x": rows}, mesh)["x"]
    assert placed.sharding.shard_shape(placed.shape) == (2,)
    np.testing.assert_array_equal(placed, rows)
    with pytest.raises(ShapeError, match="can't be placed"):
        parallel.place({"x": rows[:5]}, mesh)


def test_batch_size_must_divide():
    mesh = parallel.make_mesh({"data": 8})
    parallel.check_batch_size(32, mesh, accumulate=2)
    with pytest.raises(ConfigError, match=r"batch_size=20 .* 16 .*: 16 can"):
        parallel.check_batch_size(20, mesh, accumulate=2)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("expert", "expert=2: the model has no experts; it is for those that have"),
        ("sequence", "sequence=2: there is no sequence to divide"),
        ("pipeline", "pipeline=2: the model has no stack of layers"),
        ("tensor", "tensor=2: nothing of the model is divided by it"),
    ],
)
def test_an_axis_that_nothing_uses_is_an_error(axis, message):
    mesh = parallel.describe_mesh({axis: 2})
    with pytest.raises(ConfigError, match=message):
        parallel.check_axes({"conv": {"kernel": shape(3, 3, 8, 8)}}, mesh, {"image": shape(8, 8, 1)})


def test_an_axis_that_does_not_divide_what_it_is_for_names_the_nearest_size():
    experts = {"experts": {name: {"kernel": shape(6, 8, 8)} for name in ("gate", "up", "down")}}
    with pytest.raises(ConfigError, match=r"expert=4: experts/\w+/kernel has 6 experts, .* nearest .* is 3"):
        parallel.check_axes(experts, parallel.describe_mesh({"expert": 4}))
    with pytest.raises(ConfigError, match="sequence=4: a row of tokens has 18 positions, .* nearest .* is 3"):
        parallel.check_axes(experts, parallel.describe_mesh({"sequence": 4}), {"tokens": shape(18)})


def test_experts_lie_over_the_expert_axis():
    experts = {"up": {"kernel": shape(4, 64, 256)}, "down": {"kernel": shape(4, 256, 64)}}
    assert specs({"experts": experts}, fsdp=2, expert=2, tensor=2) == {
        "experts/up/kernel": P("expert", "fsdp", "tensor"),
        "experts/down/kernel": P("expert", "tensor", "fsdp"),
    }
    with pytest.raises(ConfigError, match=r"down/kernel .* dimension 0 .* expert=8; the nearest size .* is 4"):
        specs({"experts": experts}, expert=8)


def test_fsdp_and_tensor_divide_one_dimension_of_what_isnt_looped_over():
    tree = {"conv": {"kernel": shape(3, 3, 64, 128)}, "odd": {"kernel": shape(512, 66)}}
    tree["layers"] = {"dense1": {"kernel": shape(2, 128, 128)}, "modulation": {"kernel": shape(2, 128, 768)}}
    found = specs(tree, data=2, fsdp=2, tensor=2)
    assert found["conv/kernel"] == P(None, None, None, ("tensor", "fsdp"))
    assert found["odd/kernel"] == P(None, "tensor")
    assert found["layers/dense1/kernel"] == P(None, "fsdp", "tensor")
    assert found["layers/modulation/kernel"] == P(None, None, ("tensor", "fsdp")), "it takes a vector of each example"


def test_stacked_layers_lie_over_the_pipeline_axis():
    tree = {"layers": {"dense1": {"kernel": shape(4, 128, 64)}}, "token_embed": {"embedding": shape(512, 64)}}
    assert specs(tree, pipeline=2, fsdp=2, tensor=2) == {
        "layers/dense1/kernel": P("pipeline", "fsdp", "tensor"),
        "token_embed/embedding": P("fsdp", "tensor"),
    }
    with pytest.raises(ConfigError, match=r"dense1/kernel .* 4 layers can't be divided by .* pipeline=8; .* is 4"):
        specs(tree, pipeline=8)


def test_prefetch_keeps_order_and_runs_ahead():
    made = []
    ahead = parallel.prefetch(range(5), lambda n: made.append(n) or n, depth=2)
    assert next(ahead) == 0
    assert made == [0, 1, 2]
    assert list(ahead) == [1, 2, 3, 4]


def test_fsdp_takes_the_largest_dimension_that_divides():
    tree = {"a": {"kernel": shape(400, 120)}, "b": {"kernel": shape(121, 800)}, "small": {"kernel": shape(8, 8)}}
    assert specs(tree, fsdp=8) == {
        "a/kernel": P("fsdp", None),
        "b/kernel": P(None, "fsdp"),
        "small/kernel": P(),
    }


def test_rules_and_fsdp_share_a_leaf():
    tree = {"conv": {"kernel": shape(3, 3, 64, 128)}, "head": {"kernel": shape(2048, 1000)}}
    assert specs(tree, fsdp=4, tensor=2) == {
        "conv/kernel": P(None, None, None, ("tensor", "fsdp")),
        "head/kernel": P(("tensor", "fsdp"), None),
    }


def test_a_placement_that_does_not_divide_names_leaf_axis_and_size():
    with pytest.raises(ConfigError, match=r"x/kernel \(2048, 99\): dimension 1 .*tensor=8; the nearest size .* is 9"):
        specs({"x": {"kernel": shape(2048, 99)}}, tensor=8)


def test_a_large_leaf_that_nothing_shards_is_an_error():
    with pytest.raises(ConfigError, match="table .*nothing in the mesh"):
        specs({"table": shape(1031, 1033)}, fsdp=8)


def test_an_optimizers_state_lies_where_the_parameters_lie():
    mesh = parallel.make_mesh({"fsdp": 4, "tensor": 2})
    params = {"conv": {"kernel": shape(3, 3, 64, 128), "bias": shape(128)}}
    placed = parallel.shardings(params, mesh)
    state = (params, {"nu": params, "count": shape(), "v_row": {"conv": {"kernel": shape(9, 64, 256)}}})
    where = trees.flatten(parallel.shardings_like(state, params, placed, mesh))
    assert where["0/conv/kernel"] == where["1/nu/conv/kernel"] == placed["conv"]["kernel"]
    assert where["1/count"].spec == P()
    assert where["1/v_row/conv/kernel"].spec == P(None, None, "fsdp")


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (("tensor", "tensor"), r"x/kernel \(256, 128\).* names the axis tensor twice; an axis divides one dimension"),
        (("tensr", None), r"x/kernel .*\('tensr', None\) has no axis of a mesh: did you mean 'tensor'"),
        (("fsdp", "tensor", None), r"x/kernel .* is of the last 3 dimensions, the leaf has 2; give it 2"),
    ],
)
def test_impossible_placements_name_leaf_and_axis(placement, message):
    tree, mesh = {"x": {"kernel": shape(256, 128)}}, parallel.describe_mesh({"fsdp": 2, "tensor": 2})
    with pytest.raises(ConfigError, match=message):
        parallel.shardings(tree, mesh, ((".*kernel", placement),))


def test_a_placement_may_name_fsdp_itself():
    tree, mesh = {"x": {"kernel": shape(256, 512)}}, parallel.describe_mesh({"fsdp": 2, "tensor": 2})
    placed = parallel.shardings(tree, mesh, ((".*kernel", ("fsdp", None)),))
    assert placed["x"]["kernel"].spec == P("fsdp", None)


def ids(array):
    return np.vectorize(lambda device: device.id, otypes=[int])(array).squeeze().tolist()


def test_a_slower_network_joins_parts_of_an_axis():
    """Of virtual devices, the first half is one part: neighbours along fsdp and within one half of data."""
    mesh = parallel.make_mesh({"data": 4, "fsdp": 2, "dcn": {"data": 2}})
    assert parallel.sizes(mesh) == {"data": 4, "fsdp": 2}
    assert ids(mesh.devices) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    mesh = parallel.make_mesh({"data": 2, "fsdp": 4, "dcn": {"fsdp": 2}})
    assert ids(mesh.devices) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert dict(parallel.describe_mesh({"data": 2, "dcn": {"data": 2}}).shape)["data"] == 2


def test_slices_of_tpus_are_told_apart_by_their_numbers():
    devices = [
        SimpleNamespace(
            id=8 * part + i, slice_index=part, process_index=part, platform="tpu", device_kind="TPU v4",
            coords=(i // 2 % 2, i // 4, i % 2), core_on_chip=0,
        )
        for i in range(8)
        for part in range(2)
    ]  # fmt: skip
    found = hybrid((4, 1, 4, 1, 1, 1), (2, 1, 1, 1, 1, 1), devices)
    assert [{device.slice_index for device in row.flat} for row in found] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ConfigError, match="asks for 4 slices, there are 2"):
        hybrid((4, 1, 4, 1, 1, 1), (4, 1, 1, 1, 1, 1), devices)


def test_a_part_is_whole_processes():
    devices = [SimpleNamespace(id=i, process_index=i // 4) for i in reversed(range(8))]
    found = hybrid((4, 1, 2, 1, 1, 1), (2, 1, 1, 1, 1, 1), devices)
    assert [{device.process_index for device in row.flat} for row in found] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ConfigError, match="4 parts of 2 devices, which would divide the devices of a process"):
        hybrid((4, 1, 2, 1, 1, 1), (4, 1, 1, 1, 1, 1), devices)


@pytest.mark.parametrize(
    ("dcn", "message"),
    [
        ({"dat": 2}, "config.mesh.dcn has no axis 'dat': did you mean 'data'"),
        ({"data": 3}, "config.mesh.dcn data=3: expected a number that divides data=4"),
        ({"data": 0}, "config.mesh.dcn data=0: expected a number that divides"),
    ],
)
def test_impossible_parts(dcn, message):
    with pytest.raises(ConfigError, match=message):
        parallel.make_mesh({"data": 4, "fsdp": 2, "dcn": dcn})


def test_one_process_gives_the_whole_batch():
    assert parallel.share(parallel.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})) == (0, 1)


def test_an_optimizers_state_may_be_divided_over_data_too():
    mesh = parallel.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    params = {"conv": {"kernel": shape(3, 3, 64, 128), "bias": shape(128)}, "odd": {"kernel": shape(101, 512)}}
    placed = parallel.shardings(params, mesh)
    where = trees.flatten(parallel.shardings_like({"mu": params}, params, placed, mesh, over_data=True))
    assert placed["conv"]["kernel"].spec == P(None, None, None, ("tensor", "fsdp"))
    assert where["mu/conv/kernel"].spec == P(None, None, "data", ("tensor", "fsdp"))
    assert where["mu/conv/bias"].spec == P()
    assert where["mu/odd/kernel"].spec == P(None, ("tensor", "data"))
