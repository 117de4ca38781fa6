"""Exported models: what runs back is the model, and what can't be exported or loaded says why."""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepmodels
from deepmodels import cli, exporting, models, trees
from deepmodels.errors import ShapeError
from deepmodels.exporting import ExportError
from deepmodels.models import MODELS

pytest.importorskip("flatbuffers")

# torchvision's convnext_tiny and Google's bert_tiny are full-size models
RENAMED = {"convnext_tiny": "convnext_micro", "bert_tiny": "bert_micro"}
TINY = ["mcculloch_pitts", *(RENAMED.get(name, name) for name in models.list_models("*_tiny"))]
WHOLE = {"perceptron_tiny", "autoencoder_tiny"}  # of the default tests: the rest takes minutes
FIXED = {"transformer_tiny", "dalle_tiny", "mcculloch_pitts"}  # whose sequences have one length


def made(name):
    model, inputs = models.create(name), MODELS[name].inputs
    specs = [jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype) for spec in inputs.values()]
    rng = np.random.default_rng(1)

    def leaf(name, x):
        return rng.uniform(*((0.5, 1.5) if name.endswith("/var") else (-0.3, 0.4)), x.shape).astype(x.dtype)

    return model, trees.map_named(leaf, dict(jax.eval_shape(model.init, jax.random.key(0), *specs))), inputs


def runs_back(name, path):
    model, variables, inputs = made(name)
    names = exporting.export(model, variables, path, inputs=inputs)
    apart = exporting.difference(model, variables, path, inputs=inputs)
    assert list(apart) == names
    assert max(apart.values()) == 0
    programs = exporting.load_exported(path).programs.values()
    leaves = [leaf for program in programs for leaf in jax.tree.leaves(program.inputs)]
    assert all(str(leaf.shape[0]) == "batch" for leaf in leaves)
    lengths = {str(size) for leaf in leaves for size in leaf.shape if str(size).endswith("_length")}
    sequences = {name for name, spec in inputs.items() if exporting._SEQUENCES.get(name) == len(spec.shape)}
    assert lengths == (set() if name in FIXED else {f"{sequence}_length" for sequence in sequences})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_is_exported_is_the_model(name, tmp_path):
    runs_back(name, tmp_path / "x.stablehlo")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name not in WHOLE])
def test_what_is_exported_of_every_family_is_the_model(name, tmp_path):
    """`pytest -m slow tests/test_exporting.py`: minutes."""
    runs_back(name, tmp_path / "x.stablehlo")


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A decoder's file, of the steps alone, with room for 8 positions."""
    model, variables, inputs = made("gpt_tiny")
    path = tmp_path_factory.mktemp("export") / "gpt.stablehlo"
    names = deepmodels.export(
        model, variables, path, inputs=inputs, only=["prefill", "step"], length=8, platforms=("cpu",)
    )
    assert names == ["prefill", "step"]
    return model, variables, path


def test_a_text_is_written_by_the_exported_steps(writer):
    model, variables, path = writer
    exported = deepmodels.load_exported(path)
    prompts, lengths = np.array([[1, 2, 3], [4, 5, 0]], np.int32), np.array([3, 2], np.int32)
    logits, cache = exported["prefill"](prompts, lengths)
    written = []
    for _ in range(4):
        token = np.asarray(logits.argmax(-1), np.int32)
        written.append(token)
        logits, cache = exported["step"](tokens=token, cache=cache)
    theirs = deepmodels.generate(model, variables, [[1, 2, 3], [4, 5]], max_new_tokens=4)
    assert np.stack(written, 1).tolist() == [completion.tokens for completion in theirs]


def test_sizes_that_are_fixed(tmp_path):
    model, variables, inputs = made("gpt_tiny")
    options = {"inputs": inputs, "length": 8, "sizes": {"batch": 2, "tokens_length": 4}}
    deepmodels.export(model, variables, tmp_path / "x.stablehlo", only=["call"], platforms=("cpu",), **options)
    assert exporting.difference(model, variables, tmp_path / "x.stablehlo", **options) == {"call": 0}
    programs = deepmodels.load_exported(tmp_path / "x.stablehlo").programs
    assert all(isinstance(n, int) for p in programs.values() for leaf in jax.tree.leaves(p.inputs) for n in leaf.shape)
    with pytest.raises(ShapeError, match=r"tokens: expected int32 \(2, 4\), got int32 \(1, 4\)"):
        programs["call"](np.ones((1, 4), np.int32))
    for sizes, message in (
        ({"tokens_lenght": 4}, "unknown free size 'tokens_lenght': did you mean 'tokens_length'"),
        ({"tokens_length": 9}, "tokens_length is 9: expected 1 to 8"),
        ({"batch": 0}, "batch is 0: expected at least 1"),
    ):
        with pytest.raises(ExportError, match=message):
            deepmodels.export(model, variables, tmp_path / "y.stablehlo", **options | {"sizes": sizes})


def test_a_wrong_input_is_named(writer):
    prefill = deepmodels.load_exported(writer[2])["prefill"]
    tokens, lengths = np.ones((2, 3), np.int32), np.ones(2, np.int32)
    with pytest.raises(ShapeError, match=r"tokens: expected int32 \(batch, tokens_length\), got int32 \(6,\)"):
        prefill(np.ones(6, np.int32), lengths)
    with pytest.raises(ShapeError, match=r"tokens: expected int32 .*, got float32 \(2, 3\)"):
        prefill(tokens.astype(np.float32), lengths)
    with pytest.raises(ShapeError, match=r"lengths: expected int32 \(batch\), got \(3,\): batch is 2 in tokens"):
        prefill(tokens, np.ones(3, np.int32))
    with pytest.raises(ShapeError, match="prefill: takes tokens, lengths, got tokens"):
        prefill(tokens)
    with pytest.raises(ShapeError, match="prefill: takes tokens, lengths, got tokens, lengths, mask"):
        prefill(tokens, lengths, mask=tokens)
    with pytest.raises(ShapeError, match="tokens: expected at most 8 positions, got 9"):
        prefill(np.ones((2, 9), np.int32), lengths)


def test_a_file_that_is_no_export_is_an_error(writer, tmp_path):
    with pytest.raises(ExportError, match="there is no such file"):
        deepmodels.load_exported(tmp_path / "none.stablehlo")
    other = tmp_path / "other.stablehlo"
    other.write_text("module {}")
    with pytest.raises(ExportError, match="isn't an export"):
        deepmodels.load_exported(other)
    damaged = bytearray(writer[2].read_bytes())
    damaged[damaged.index(b"weights/params") + 100] ^= 1
    other.write_bytes(damaged)
    with pytest.raises(ExportError, match="is damaged: Bad CRC-32"):
        deepmodels.load_exported(other)
    with zipfile.ZipFile(writer[2]) as source, zipfile.ZipFile(other, "w") as file:
        for name in source.namelist():
            data = b"nothing that jax wrote" if name.startswith("programs/") else source.read(name)
            file.writestr(name, data)
    with pytest.raises(ExportError, match="was written by jax .* can't read it"):
        deepmodels.load_exported(other)
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("manifest.json", json.dumps({"format": 99}))
    with pytest.raises(ExportError, match="has format 99"):
        deepmodels.load_exported(other)


def test_what_cant_be_exported_says_so(tmp_path):
    model, variables, inputs = made("mlp_tiny")
    for name, options, message in (
        ("x.hlo", {}, "ends in .stablehlo or .onnx"),
        ("x.stablehlo", {"platforms": ["gpu"]}, "unknown platform 'gpu'"),
        ("x.stablehlo", {"only": ["cal"]}, "unknown function of MLP 'cal': did you mean 'call'"),
    ):
        with pytest.raises(ExportError, match=message):
            deepmodels.export(model, variables, tmp_path / name, inputs=inputs, **options)
    with pytest.raises(ExportError, match="no model of the table takes inputs for these variables"):
        deepmodels.export(model.clone(num_classes=3), variables, tmp_path / "x.stablehlo")
    assert list(tmp_path.iterdir()) == []


def test_of_another_platform(tmp_path):
    model, variables, inputs = made("mlp_tiny")
    deepmodels.export(model, variables, tmp_path / "x.stablehlo", platforms=["tpu"])
    assert exporting.difference(model, variables, tmp_path / "x.stablehlo", inputs=inputs) is None
    with pytest.raises(ExportError, match="call: exported for tpu, this is cpu"):
        deepmodels.load_exported(tmp_path / "x.stablehlo")(jnp.zeros((1, 8, 8, 1)))


def test_the_command(tmp_path, capsys):
    cli.main(["export", "mlp_tiny", "--to", str(tmp_path / "x.stablehlo"), "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["difference"] == {"call": 0.0}
    assert "fresh ones" in said.err
    cli.main(["export", "mlp_tiny", "--to", str(tmp_path / "y.stablehlo"), "--size=batch=2"])
    assert deepmodels.load_exported(tmp_path / "y.stablehlo").programs["call"].inputs["images"].shape[0] == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["export", "mlp_tiny", "--to", str(tmp_path / "z.stablehlo"), "--size=batch"])
    assert "--size batch: expected a name and a number, batch=1" in capsys.readouterr().err
    for name, message in (
        ("mlp_tin", "unknown model 'mlp_tin': did you mean 'mlp_tiny'"),
        (str(tmp_path), "is neither a run, with checkpoints, nor a model's folder"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["export", name, "--to", str(tmp_path / "x.stablehlo")])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_and_a_models_folder_are_exported(tmp_path, capsys):
    """`pytest -m slow tests/test_exporting.py -k folder`: half a minute."""
    cli.main(["train", "--config=experiments/lenet5_fashion.py:smoke", f"--workdir={tmp_path / 'run'}", "--quiet"])
    model, variables, _ = made("gpt_tiny")
    deepmodels.save_folder(tmp_path / "folder", model, variables)
    for name, functions in (("run", ["call"]), ("folder", ["call", "prefill", "step"])):
        capsys.readouterr()
        cli.main(["export", str(tmp_path / name), "--to", str(tmp_path / "x.stablehlo"), "--json"])
        said = json.loads(capsys.readouterr().out)
        assert said["functions"] == functions
        assert max(said["difference"].values()) == 0
    cli.main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "x.stablehlo")])
    assert deepmodels.load_exported(tmp_path / "x.stablehlo")["call"].inputs["images"].shape[1:] == (28, 28, 1)
