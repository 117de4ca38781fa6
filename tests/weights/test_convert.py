"""The table of rows, in both directions, and what it says of weights that don't fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.errors import WeightsError
from deepmodels.weights.convert import (
    CONV,
    DENSE,
    SAME,
    Rule,
    attention,
    batch_norm,
    count_known,
    dense,
    flatten_dense,
    from_ours,
    same_names,
    to_ours,
)

RULES = (
    Rule("layer{stage+1}.{block}.conv{n}.weight", "params/stage{stage}_block{block}/conv{n}/kernel", CONV),
    *batch_norm("bn{n}", "norm{n}"),
    *dense("fc", "head"),
)


def array(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def variables():
    return {
        "params": {
            "stage0_block1": {"conv2": {"kernel": array(3, 3, 2, 4)}},
            "norm1": {"scale": array(4, seed=1), "bias": array(4, seed=2)},
            "head": {"kernel": array(4, 5, seed=3), "bias": array(5, seed=4)},
        },
        "batch_stats": {"norm1": {"mean": array(4, seed=5), "var": array(4, seed=6)}},
    }


def refused(*arguments, **keywords):
    with pytest.raises(WeightsError) as error:
        to_ours(*arguments, **keywords)
    return str(error.value)


def test_names_and_axes_are_translated_and_back():
    ours = variables()
    theirs = from_ours(ours, RULES)
    assert {name: value.shape for name, value in theirs.items()} == {
        "layer1.1.conv2.weight": (4, 2, 3, 3),
        **{f"bn1.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")},
        "fc.weight": (5, 4),
        "fc.bias": (5,),
    }
    assert all(value.flags.c_contiguous for value in theirs.values())
    assert theirs["layer1.1.conv2.weight"][3, 1, 0, 2] == ours["params"]["stage0_block1"]["conv2"]["kernel"][0, 2, 1, 3]
    assert theirs["fc.weight"][4, 2] == ours["params"]["head"]["kernel"][2, 4]

    theirs["bn1.num_batches_tracked"] = np.int64(7)
    again = to_ours(theirs, RULES, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, ours)))
    jax.tree.map(np.testing.assert_array_equal, again, ours)
    assert jax.tree.structure(again) == jax.tree.structure(ours)


@pytest.mark.parametrize(
    ("transform", "theirs", "ours"),
    [
        (SAME, (3, 4), (3, 4)),
        (DENSE, (3, 4), (4, 3)),
        (CONV, (8, 3, 5), (5, 3, 8)),
        (CONV, (8, 1, 3, 5), (3, 5, 1, 8)),
        (CONV, (8, 2, 3, 5, 7), (3, 5, 7, 2, 8)),
        (flatten_dense(2, 3, 5), (4, 30), (30, 4)),
    ],
)
def test_transforms_undo_themselves(transform, theirs, ours):
    w = np.arange(np.prod(theirs)).reshape(theirs)
    forward = transform.forward(w)
    assert forward.shape == ours
    np.testing.assert_array_equal(transform.inverse(forward), w)


def test_a_dense_kernel_after_flattening_sees_the_same_pixels():
    maps, w = array(6, 2, 3, 5), array(4, 30)  # NCHW
    ours = maps.transpose(0, 2, 3, 1).reshape(6, -1) @ flatten_dense(2, 3, 5).forward(w)
    np.testing.assert_allclose(ours, maps.reshape(6, -1) @ w.T, rtol=1e-5, atol=1e-5)


def test_stacked_layers():
    rules = (
        Rule("first.{b}.w", "params/stage0_blocks/w[{b}]"),
        Rule("other.0.w", "params/stage1_block0/w"),
        Rule("other.{b}.w", "params/stage1_blocks/w[{b-1}]", DENSE),
    )
    ours = {"params": {"stage0_blocks": {"w": array(2, 3)}, "stage1_block0": {"w": array(4)}}}
    ours["params"]["stage1_blocks"] = {"w": array(3, 2, 5)}
    theirs = from_ours(ours, rules)
    assert list(theirs) == ["first.0.w", "first.1.w", "other.0.w", "other.1.w", "other.2.w", "other.3.w"]
    np.testing.assert_array_equal(theirs["other.3.w"], ours["params"]["stage1_blocks"]["w"][2].T)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, ours), ours)

    del theirs["other.2.w"]
    theirs["first.1.w"] = array(4)
    said = refused(theirs, rules, ours)
    assert "1 missing: other.2.w for params/stage1_blocks/w[1]" in said
    assert "first.1.w is float32[4], which becomes [4], but params/stage0_blocks/w needs float32[3]" in said


def test_everything_that_is_wrong_is_said_at_once():
    theirs = from_ours(variables(), RULES)
    theirs["fc.weigth"] = theirs.pop("fc.weight")
    theirs["layer7.0.conv1.weight"] = theirs["fc.bias"]
    theirs["layer1.1.conv2.weight"] = array(4, 2, 5, 5)
    theirs["bn1.weight"] = array(4, 4)
    theirs["bn1.bias"] = theirs["bn1.bias"].astype(np.int32)
    theirs["fc.bias"] = theirs["fc.bias"].astype(np.float16)
    said = refused(theirs, RULES, variables())
    for text in (
        "2 not in the model: fc.weigth (did you mean 'fc.weight'?)",
        "layer7.0.conv1.weight (it would be params/stage6_block0/conv1/kernel)",
        "1 missing: fc.weight for params/head/kernel",
        "4 wrong",
        "is float32[4, 2, 5, 5], which becomes [5, 5, 2, 4], but params/stage0_block1/conv2/kernel needs",
        "bn1.weight is float32[4, 4]",
        "bn1.bias is int32[4], but params/norm1/bias needs float32[4]",
        "fc.bias is float16[5], but params/head/bias needs float32[5]; cast=True",
    ):
        assert text in said
    assert said.count("cast=True") == 1


def test_an_axis_too_few_is_said_too():
    theirs = from_ours(variables(), RULES) | {"fc.weight": array(20)}
    assert "fc.weight is float32[20], which can't become what params/head/kernel needs" in refused(
        theirs, RULES, variables()
    )


def test_long_lists_are_cut():
    theirs = from_ours(variables(), RULES) | {f"extra{i}": array(1) for i in range(200)}
    said = refused(theirs, RULES, variables())
    assert "200 not in the model" in said
    assert "and 195 more" in said
    assert len(said) < 500


def test_two_sources_of_one_leaf():
    rules = (*RULES, Rule("old.weight", "params/head/kernel", DENSE))
    theirs = from_ours(variables(), rules)
    assert "old.weight" not in theirs  # the first row writes
    theirs["old.weight"] = theirs["fc.weight"]
    assert "old.weight and fc.weight both fill params/head/kernel" in refused(theirs, rules, variables())
    del theirs["fc.weight"]
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, variables()), variables())


def test_leaves_without_a_row():
    ours = variables()
    ours["params"]["aux"] = {"kernel": array(3)}
    with pytest.raises(WeightsError, match="1 not in the table: params/aux/kernel"):
        from_ours(ours, RULES)
    assert "a row of the table for params/aux/kernel" in refused(from_ours(variables(), RULES), RULES, ours)


def test_two_leaves_of_one_name():
    with pytest.raises(WeightsError, match="params/b is not the only leaf that is named w"):
        from_ours({"params": {"a": array(1), "b": array(1)}}, (Rule("w", "params/a"), Rule("w", "params/b")))


def test_a_row_without_target_holds_where_the_model_has_no_leaf():
    rules = (*dense("aux{n}.fc", "aux{n}"), Rule("aux{n}.{*}", None), *dense("fc", "head"))
    head = {"head": {"kernel": array(4, 5), "bias": array(5)}}
    whole = {"params": head | {"aux1": {"kernel": array(2, 3), "bias": array(3)}}}
    theirs = from_ours(whole, rules)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, whole), whole)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, {"params": head}), {"params": head})


@pytest.mark.parametrize("key", ["layer0.1.conv2.weight", "layer01.1.conv2.weight", "layer1.1.conv2.weights", "layer1"])
def test_what_a_template_does_not_fit(key):
    theirs = from_ours(variables(), RULES)
    theirs[key] = theirs.pop("layer1.1.conv2.weight")
    assert f"1 not in the model: {key}" in refused(theirs, RULES, variables())


def test_a_field_stands_for_one_number():
    rules = (Rule("a{n}.b{n}", "params/w{n}"),)
    assert count_known(["a1.b1", "a1.b2", "a" + "9" * 5000 + ".b1"], rules) == 1


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_another_precision_is_converted_only_when_asked(dtype):
    theirs = {name: value.astype(dtype) for name, value in from_ours(variables(), RULES).items()}
    assert "7 wrong" in refused(theirs, RULES, variables())
    cast = to_ours(theirs, RULES, variables(), cast=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {np.dtype(np.float32)}
    expected = theirs["fc.weight"].astype(np.float32).T
    np.testing.assert_array_equal(cast["params"]["head"]["kernel"], expected)


def test_integers_are_never_converted():
    theirs = from_ours(variables(), RULES)
    theirs["fc.bias"] = np.arange(5)
    assert "fc.bias is int64[5], but" in refused(theirs, RULES, variables(), cast=True)


def test_fresh_leaves_stay_as_they_are():
    ours, theirs = variables(), from_ours(variables(), RULES)
    ours["params"]["head"] = {"kernel": array(4, 9), "bias": array(9)}
    assert "2 wrong" in refused(theirs, RULES, ours)
    loaded = to_ours(theirs, RULES, ours, fresh="head/.*")
    assert loaded["params"]["head"]["kernel"] is ours["params"]["head"]["kernel"]
    np.testing.assert_array_equal(loaded["batch_stats"]["norm1"]["mean"], theirs["bn1.running_mean"])

    del ours["params"]["head"]  # a trunk
    assert trees.flatten(to_ours(theirs, RULES, ours, fresh="head/.*")).keys() == trees.flatten(ours).keys()
    assert "2 not in the model" in refused(theirs, RULES, ours)


def test_results_are_copies():
    ours = {"params": {"w": array(3)}}
    source = {"params/w": ours["params"]["w"]}
    loaded = to_ours(source, same_names(ours), ours)
    loaded["params"]["w"][0] = 9
    assert ours["params"]["w"][0] != 9


def test_no_source_and_no_leaves():
    assert to_ours({}, RULES, {}) == {}
    assert "7 missing" in refused({}, RULES, variables())


def test_a_stack_is_indexed_at_its_module():
    """The number of a layer may stand behind the module that is stacked: rows of torch's layers fit as they are."""
    rules = (
        *dense("h.{layer+1}.fc", "layers[{layer}]/dense1"),
        Rule("h.{layer+1}.g", "params/layers[{layer}]/norm/scale"),
    )
    layer = {"dense1": {"kernel": array(3, 2, 4), "bias": array(3, 4)}, "norm": {"scale": array(3, 2)}}
    ours = {"params": {"layers": layer}}
    theirs = from_ours(ours, rules)
    assert theirs.keys() == {f"h.{n}.{leaf}" for n in (1, 2, 3) for leaf in ("fc.weight", "fc.bias", "g")}
    np.testing.assert_array_equal(theirs["h.3.fc.weight"], layer["dense1"]["kernel"][2].T)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, ours), ours)

    kept = to_ours({k: v for k, v in theirs.items() if "fc" not in k}, rules, ours, fresh="layers/dense1/.*")
    assert kept["params"]["layers"]["dense1"]["kernel"] is layer["dense1"]["kernel"]

    del theirs["h.2.g"]
    theirs["h.4.g"] = array(2)
    theirs["h.1.fc.bias"] = array(5)
    said = refused(theirs, rules, ours)
    assert "1 missing: h.2.g for params/layers[1]/norm/scale" in said
    assert "1 not in the model: h.4.g (it would be params/layers[3]/norm/scale)" in said
    assert "h.1.fc.bias is float32[5], which becomes [5], but params/layers/dense1/bias needs float32[4]" in said


def test_parts_of_an_array():
    rules = attention("a.{layer}", "layers[{layer}]/attention")
    names = ("query", "key", "value", "out")
    layer = {name: {"kernel": array(2, 4, 4, seed=i), "bias": array(2, 4)} for i, name in enumerate(names)}
    ours = {"params": {"layers": {"attention": layer}}}
    theirs = from_ours(ours, rules)
    assert {name: x.shape for name, x in theirs.items() if name.startswith("a.1.")} == {
        "a.1.in_proj_weight": (12, 4),
        "a.1.in_proj_bias": (12,),
        "a.1.out_proj.weight": (4, 4),
        "a.1.out_proj.bias": (4,),
    }
    np.testing.assert_array_equal(theirs["a.1.in_proj_weight"][4:8], layer["key"]["kernel"][1].T)
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, rules, ours), ours)
    assert count_known(theirs, rules) == len(theirs)

    theirs["a.0.in_proj_weight"] = array(11, 4)
    del theirs["a.1.in_proj_bias"]
    said = refused(theirs, rules, ours)
    assert "a.0.in_proj_weight[2/3] is float32[3, 4]" in said
    assert "3 missing: a.1.in_proj_bias[1/3] for params/layers[1]/attention/key/bias" in said
    with pytest.raises(WeightsError, match=r"w\[0/2\] is only a part of w"):
        from_ours({"params": {"a": array(2)}}, (Rule("w[0/2]", "params/a"), Rule("w[1/2]", "params/b")))
