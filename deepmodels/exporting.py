"""Models as programs that run without this library: StableHLO by `jax.export`, and ONNX by jax2onnx.

A `.stablehlo` file is a zip, uncompressed, that holds the weights once and a program for each function of the model:

    manifest.json                 functions, weights by name with dtype and shape, versions
    programs/<function>           what `jax.export` serialised; it takes (weights, inputs), two trees of dicts
    weights/<leaf>                an array's bytes in C order: weights/params/conv1/kernel

Who has JAX but not this library reads a program by `jax.export.deserialize`; `.mlir_module()` of that is StableHLO as
text, `.mlir_module_serialized` as portable bytes for other compilers. A `.onnx` file holds one function, its weights
in it.
"""

import contextlib
import importlib
import inspect
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deepmodels import models, rewriting, trees
from deepmodels.errors import DeepModelsError, ShapeError, unknown
from deepmodels.trees import PyTree
from deepmodels.version import __version__

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_FORMAT = 1
_EXPORT = "pip install 'deepmodels-jax[export]'"
_ONNX = "see docs/export.md, as it can't be an extra"
_MANIFEST, _PROGRAMS, _WEIGHTS = "manifest.json", "programs/", "weights/"
_LENGTH = "_length"  # ends the name of a size that is one
_SEQUENCES = {"tokens": 1, "targets": 1, "inputs": 2, "context": 2}  # and how many axes each has beside the batch
# Sinusoids are computed when a program is made, and DALL-E's text has one length.
_ONE_LENGTH = ("transformer", "dalle")


class ExportError(DeepModelsError):
    """A model can't be exported as asked, or a file isn't an export that runs here."""


class Function(NamedTuple):
    """A function of a model: `apply(module, **inputs)` of the bound module, and what the inputs are like.

    `inputs` are trees of `jax.ShapeDtypeStruct` by name, in which sizes are symbolic where any will do, but for lengths
    of more than `most`.
    """

    apply: Callable[..., PyTree]
    inputs: dict[str, PyTree]
    most: int | None


def functions(
    model: nn.Module,
    variables: PyTree,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    length: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Function]:
    """Returns what there is to export of a model, by name, each for batches of any size.

    Of every model but a GAN that is "call", and beside it what others need to run the model in steps:

    - decoders and encoder-decoders, which write texts: "prefill" reads tokens (B, T), of which `lengths` (B,) are real
      or which a `mask` (B, T) marks, and "step" takes a token (B,) of each row and the `cache` that either left. Both
      return logits (B, V) and the cache, but for an encoder-decoder's prefill, which returns the cache.
    - autoencoders: "encode" and "decode"; those with a codebook by its indices.
    - CLIP: "encode_images" and "encode_text".
    - GANs: "generate" of latents, and "discriminate".

    Denoising and Gibbs sampling are loops around "call", in whatever language.

    Args:
      model: of this library.
      variables: its own, or their shapes and dtypes.
      inputs: shape and dtype of each input of the call, without the batch axis, as `MODELS[name].inputs` has them.
        Lengths of texts and other sequences stay free, up to what the model has positions for, where it allows that.
      length: positions that there are when a text is written; by default all of the model's, or those of the inputs.
      sizes: of what would be of any size, by name: {"batch": 1, "tokens_length": 128}.

    Raises:
      ExportError: `sizes` names what isn't free, or more positions than there are.
    """
    most = getattr(model, "max_length", None)
    labelled = {"label": jax.ShapeDtypeStruct((), np.int32)} if getattr(model, "num_classes", 0) else {}
    images = {name: spec for name, spec in inputs.items() if name == "images"}

    def method(name: str, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> Function:
        return Function(lambda module, **arrays: getattr(module, name)(**arrays), _batched(model, inputs, most), most)

    if hasattr(model, "latent_size") and hasattr(model, "discriminate"):
        latent = {"latent": jax.ShapeDtypeStruct((model.latent_size,), np.float32)}
        found = {
            "generate": method("generate", latent | labelled),
            "discriminate": method("discriminate", images | labelled),
        }
        return _fixed(found, sizes or {})
    found = {"call": method("__call__", inputs)}
    if hasattr(model, "step"):
        length = length or most or max(spec.shape[0] for spec in inputs.values())
        found |= _writing(model, variables, inputs, length)
    elif hasattr(model, "encode_images"):
        found |= {"encode_images": method("encode_images", images)}
        found |= {"encode_text": method("encode_text", {"tokens": inputs["tokens"]})}
    elif hasattr(model, "encode"):
        ending = "_indices" if hasattr(model, "decode_indices") else ""
        asked = labelled if "label" in inspect.signature(model.encode).parameters else {}
        found["encode"] = encode = method("encode" + ending, images | asked)
        code = jax.eval_shape(partial(_applied, model, encode), variables, encode.inputs)
        code = code[0] if isinstance(code, tuple) else code  # the mean of a distribution
        name = next(iter(inspect.signature(getattr(model, "decode" + ending)).parameters))
        found["decode"] = method("decode" + ending, {name: jax.ShapeDtypeStruct(code.shape[1:], code.dtype)} | asked)
    return _fixed(found, sizes or {})


def _fixed(found: dict[str, Function], sizes: Mapping[str, int]) -> dict[str, Function]:
    """Functions of which some sizes aren't free any more."""
    leaves = [leaf for function in found.values() for leaf in jax.tree.leaves(function.inputs)]
    free = {str(size) for leaf in leaves for size in leaf.shape if not isinstance(size, int)}
    for name, size in sizes.items():
        if name not in free:
            raise ExportError(str(unknown("free size", name, free)))
        most = min((f.most for f in found.values() if f.most is not None and name.endswith(_LENGTH)), default=size)
        if not 1 <= size <= most:
            raise ExportError(f"{name} is {size}: expected {f'1 to {most}' if most < size else 'at least 1'}")

    def fix(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct([sizes.get(str(size), size) for size in spec.shape], spec.dtype)

    return {
        name: function._replace(inputs={key: jax.tree.map(fix, tree) for key, tree in function.inputs.items()})
        for name, function in found.items()
    }


def _writing(model: nn.Module, variables: PyTree, inputs: Mapping[str, Any], length: int) -> dict[str, Function]:
    """The functions that write texts, with room for `length` positions."""
    tokens = {"tokens": inputs["tokens"]}
    if hasattr(model, "encode"):
        most = getattr(model, "max_length", None)

        def prefill(module, tokens, mask):
            return module.start(module.encode(tokens, mask), mask, length=length)

        read = _batched(model, tokens, most)
        read["mask"] = jax.ShapeDtypeStruct(read["tokens"].shape, bool)
        cache = jax.eval_shape(partial(_called, model, Function(prefill, read, most)), variables, read)
        token = jax.ShapeDtypeStruct(read["tokens"].shape[:1], np.int32)
    else:
        most = length
        room = (length,) if "length" in inspect.signature(model.start).parameters else ()

        def prefill(module, tokens, lengths):
            return module.extend(tokens, module.start(tokens.shape[0], *room), lengths)

        token = _batched(model, {"tokens": jax.ShapeDtypeStruct((), np.int32)}, None)["tokens"]
        cache = jax.eval_shape(lambda token: model.start(token.shape[0], *room), token)
        if room and min(leaf.shape[2] for leaf in jax.tree.leaves(cache) if leaf.ndim > 2) < length:
            # buffers of layers with windows begin anew, or don't, by the number of tokens
            read = _batched(model, {"tokens": jax.ShapeDtypeStruct((length,), np.int32)}, None, free=False)
        else:
            read = _batched(model, tokens, most)
        read["lengths"] = jax.ShapeDtypeStruct(read["tokens"].shape[:1], np.int32)
    form = jax.tree.structure(cache)

    def step(module, tokens, cache):
        return module.step(tokens, jax.tree.unflatten(form, jax.tree.leaves(cache)))

    after = {"tokens": token, "cache": _plain(cache)}
    return {"prefill": Function(prefill, read, most), "step": Function(step, after, most)}


def inputs_of(model: nn.Module, variables: PyTree) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of each input of a model's call, as a model like it in the table has them.

    Raises:
      ExportError: none has variables of these shapes.
    """
    shapes = jax.tree.map(np.shape, dict(variables.get("params", {})))
    tried = []
    for variant in models.MODELS.values():
        if variant.cls is not type(model) or variant.inputs in tried:
            continue
        tried.append(variant.inputs)
        inputs = [jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype) for spec in variant.inputs.values()]
        with contextlib.suppress(ShapeError):
            made = jax.eval_shape(model.init, jax.random.key(0), *inputs)
            if jax.tree.map(np.shape, made.get("params", {})) == shapes:
                return variant.inputs
    raise ExportError(f"{type(model).__name__}: no model of the table takes inputs for these variables: give `inputs`")


def export(
    model: nn.Module,
    variables: PyTree,
    path: str | os.PathLike,
    *,
    inputs: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    only: Sequence[str] | None = None,
    length: int | None = None,
    sizes: Mapping[str, int] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> list[str]:
    """Writes a model as a file that runs without this library, and returns the names of the functions in it.

        model, variables = deepmodels.load("resnet50", "timm/resnet50.a1_in1k")
        deepmodels.export(model, variables, "resnet50.stablehlo")
        logits = deepmodels.load_exported("resnet50.stablehlo")(images)

    Dropout is off. The model computes in the dtypes of its inputs and variables.

    Args:
      model: of this library.
      variables: its parameters, and its statistics if it has any.
      path: `.stablehlo`, of functions for several platforms, or `.onnx`, of one function. An existing file is replaced.
      inputs: see `functions`; by default as the table of models has them.
      only: names of `functions`; by default all, or for ONNX the first.
      length: see `functions`.
      sizes: see `functions`; what other compilers, or ONNX, can't say with any size they often can with a fixed one.
      platforms: of `PLATFORMS`; ONNX has none.

    Raises:
      ExportError: another suffix, a function, size or platform that there isn't, an operation that ONNX can't say (it
        is named), a missing package, or a place that can't be written to.
    """
    path = Path(path)
    if path.suffix not in (".stablehlo", ".onnx"):
        raise ExportError(f"{path}: expected a name that ends in .stablehlo or .onnx")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise ExportError(str(unknown("platform", platform, PLATFORMS)))
    inputs = inputs_of(model, variables) if inputs is None else inputs
    offered = functions(model, variables, inputs, length=length, sizes=sizes)
    for name in only or ():
        if name not in offered:
            raise ExportError(str(unknown(f"function of {type(model).__name__}", name, offered)))
    chosen = {name: offered[name] for name in only or offered}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".onnx":
            if only is None:
                chosen = dict(list(chosen.items())[:1])
            if len(chosen) > 1:
                raise ExportError(f"{path}: a file of ONNX has one function, of {', '.join(offered)}")
            ((name, function),) = chosen.items()
            _write_onnx(temporary, model, variables, name, function)
        else:
            _package("flatbuffers", _EXPORT)  # with which jax.export writes
            _write_stablehlo(temporary, model, variables, chosen, tuple(platforms))
        temporary.replace(path)
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return list(chosen)


def _write_stablehlo(
    path: Path, model: nn.Module, variables: PyTree, chosen: Mapping[str, Function], platforms: tuple[str, ...]
) -> None:
    weights = {name: np.asarray(leaf) for name, leaf in trees.flatten(variables).items()}
    form = jax.tree.structure(variables)
    order = list(weights)
    manifest = {
        "format": _FORMAT,
        "model": type(model).__name__,
        "versions": {"deepmodels": __version__, "jax": jax.__version__},
        "functions": {
            name: {"inputs": list(function.inputs), "most": function.most} for name, function in chosen.items()
        },
        "weights": {name: [array.dtype.name, list(array.shape)] for name, array in weights.items()},
    }

    def program(function: Function) -> bytes:
        def run(weights, inputs):
            return _applied(model, function, jax.tree.unflatten(form, [weights[name] for name in order]), inputs)

        abstract = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
        made = jax.export.export(jax.jit(run), platforms=platforms)(abstract, function.inputs)
        return made.serialize()

    with zipfile.ZipFile(path, "w") as file:
        for name, function in chosen.items():
            file.writestr(_PROGRAMS + name, program(function))
        for name, array in weights.items():
            file.writestr(_WEIGHTS + name, np.ascontiguousarray(array).tobytes())
        file.writestr(_MANIFEST, json.dumps(manifest, indent=1))


class Program:
    """A function of an exported model: call it with arrays, by position or by name, in the dtypes that `inputs` has.

    Attributes:
      name: of the function.
      inputs: trees of `jax.ShapeDtypeStruct` by name, in which a name stands for any size: batch.
      platforms: where it runs.
    """

    def __init__(
        self, name: str, facts: Mapping[str, Any], exported: jax.export.Exported, weights: dict[str, jax.Array]
    ):
        """See `load_exported`."""
        (_, inputs), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        self.name, self.platforms = name, exported.platforms
        self.inputs = {
            key: jax.tree.map(lambda aval: jax.ShapeDtypeStruct(aval.shape, aval.dtype), inputs[key])
            for key in facts["inputs"]
        }
        self._weights, self._call, self._most = weights, jax.jit(exported.call), facts["most"]

    def __call__(self, *arrays: PyTree, **named: PyTree) -> PyTree:
        """Returns what the model does, in dicts, lists and tuples.

        Raises:
          ShapeError: an input is missing, there is no such, or it has another shape, dtype or form.
          ExportError: the program wasn't made for this platform.
        """
        if len(arrays) > len(self.inputs):
            raise ShapeError(f"{self.name}: takes {', '.join(self.inputs)}, got {len(arrays)} inputs")
        given = dict(zip(self.inputs, arrays, strict=False))
        if twice := given.keys() & named.keys():
            raise ShapeError(f"{self.name}: {', '.join(sorted(twice))} is given twice")
        given |= named
        if given.keys() != self.inputs.keys():
            raise ShapeError(f"{self.name}: takes {', '.join(self.inputs)}, got {', '.join(given) or 'nothing'}")
        sizes: dict[str, tuple[int, str]] = {}
        for name, expected in self.inputs.items():
            _check_input(name, expected, given[name], sizes)
        for free, (size, first) in sizes.items():
            if self._most is not None and size > self._most and free.endswith(_LENGTH):
                raise ShapeError(f"{first}: expected at most {self._most} positions, got {size}")
        here = jax.export.default_export_platform()
        if here not in self.platforms:
            raise ExportError(f"{self.name}: exported for {', '.join(self.platforms)}, this is {here}")
        return self._call(self._weights, given)


class Exported:
    """An exported model: `exported["prefill"]` is a function by its name, and the call itself is the first of them.

    Attributes:
      model: the name of its class.
      programs: its functions by name.
      weights: by path, "params/conv1/kernel".
    """

    def __init__(self, model: str, programs: dict[str, Program], weights: dict[str, jax.Array]):
        """See `load_exported`."""
        self.model, self.programs, self.weights = model, programs, weights

    def __getitem__(self, name: str) -> Program:
        """Returns a function.

        Raises:
          ExportError: it wasn't exported.
        """
        if name not in self.programs:
            raise ExportError(str(unknown("function", name, self.programs)))
        return self.programs[name]

    def __call__(self, *arrays: PyTree, **named: PyTree) -> PyTree:
        """Calls the first function, see `Program`."""
        return next(iter(self.programs.values()))(*arrays, **named)


def load_exported(path: str | os.PathLike) -> Exported:
    """Returns what `export` wrote to a `.stablehlo` file, to be called.

    Raises:
      ExportError: there is no such file, it isn't one of `export`'s, is damaged, or this JAX can't read it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read(_MANIFEST))
            if manifest["format"] != _FORMAT:
                raise ExportError(f"{path} has format {manifest['format']}, this version reads {_FORMAT}")
            weights = {
                name: np.frombuffer(file.read(_WEIGHTS + name), jnp.dtype(dtype)).reshape(shape)
                for name, (dtype, shape) in manifest["weights"].items()
            }
            serialised = {name: bytearray(file.read(_PROGRAMS + name)) for name in manifest["functions"]}
    except FileNotFoundError as error:
        raise ExportError(f"{path}: there is no such file") from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError) as error:
        raise ExportError(f"{path} isn't an export of `deepmodels export`, or is damaged: {error}") from error
    _package("flatbuffers", _EXPORT)
    try:
        found = {name: jax.export.deserialize(data) for name, data in serialised.items()}
    except Exception as error:  # whatever bytes lead to that this JAX can't read
        made = manifest.get("versions", {}).get("jax")
        raise ExportError(f"{path} was written by jax {made}; jax {jax.__version__} can't read it: {error}") from error
    arrays = jax.device_put(weights)
    programs = {name: Program(name, manifest["functions"][name], program, arrays) for name, program in found.items()}
    return Exported(manifest["model"], programs, arrays)


def difference(
    model: nn.Module,
    variables: PyTree,
    path: str | os.PathLike,
    *,
    inputs: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    length: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, float] | None:
    """Returns by how much each exported function differs from the model's at most, on random inputs.

    Args:
      model, variables, path, inputs, length, sizes: as `export` took them.

    Returns:
      The largest absolute difference in any output, by function; None if the file isn't for this platform.

    Raises:
      ExportError: the file isn't an export, or the outputs have other shapes.
    """
    path = Path(path)
    inputs = inputs_of(model, variables) if inputs is None else inputs
    offered = functions(model, variables, inputs, length=length, sizes=sizes)
    if path.suffix == ".onnx":
        name, program = _load_onnx(path)
        return {name: _difference(model, variables, offered[name], program)}
    exported = load_exported(path)
    if any(jax.export.default_export_platform() not in program.platforms for program in exported.programs.values()):
        return None
    return {name: _difference(model, variables, offered[name], program) for name, program in exported.programs.items()}


def fresh(name: str) -> tuple[nn.Module, PyTree]:
    """Returns a model of the table and the variables that it begins with, of seed 0."""
    model = models.create(name)
    inputs = [jnp.zeros((1, *spec.shape), spec.dtype) for spec in models.MODELS[name].inputs.values()]
    return model, jax.jit(model.init)(jax.random.key(0), *inputs)


def _difference(model: nn.Module, variables: PyTree, function: Function, program: Callable) -> float:
    rng = np.random.default_rng(0)
    ours = jax.jit(partial(_applied, model, function))
    given = {name: jax.tree.map(partial(_random, rng), spec) for name, spec in function.inputs.items()}  # in order
    expected, got = ours(variables, given), program(**given)
    return max(_apart(a, b) for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True))


def _random(rng: np.random.Generator, spec: jax.ShapeDtypeStruct) -> np.ndarray:
    """An array of a form, of 3 examples and lengths of 5."""
    shape = [size if isinstance(size, int) else 3 if str(size) == "batch" else 5 for size in spec.shape]
    if spec.dtype == bool:
        return np.ones(shape, bool)
    return (rng.integers(1, 4, shape) if spec.dtype == np.int32 else rng.normal(size=shape)).astype(spec.dtype)


def _apart(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ExportError(f"an output is {b.shape} where the model's is {a.shape}")
    return float(np.max(np.where(a == b, 0, np.abs(a - b)), initial=0))  # infinities that agree are no difference


def _called(model: nn.Module, function: Function, variables: PyTree, inputs: Mapping[str, PyTree]) -> PyTree:
    return model.apply(variables, method=lambda module: function.apply(module, **inputs))


def _applied(model: nn.Module, function: Function, variables: PyTree, inputs: Mapping[str, PyTree]) -> PyTree:
    return _plain(_called(model, function, variables, inputs))


def _plain(tree: PyTree) -> PyTree:
    """A tree of dicts, lists and tuples, which any program reads, with the same leaves in the same order."""
    if isinstance(tree, Mapping):
        return {name: _plain(branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(_plain, tree)) if type(tree) in (list, tuple) else tuple(map(_plain, tree))
    return tree


def _batched(
    model: nn.Module, inputs: Mapping[str, jax.ShapeDtypeStruct], most: int | None, *, free: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
    """Inputs with a batch of any size before them, and of any length up to `most` where they and the model have one."""
    family = type(model).__module__.rpartition(".")[2]
    lengths = {
        name: name + _LENGTH
        for name, spec in inputs.items()
        if free and family not in _ONE_LENGTH and _SEQUENCES.get(name) == len(spec.shape)
    }
    scope = jax.export.SymbolicScope([f"{length} <= {most}" for length in lengths.values()] if most else [])
    found = {}
    for name, spec in inputs.items():
        sizes = ["batch", *map(str, spec.shape)]
        if name in lengths:
            sizes[1] = lengths[name]
        found[name] = jax.ShapeDtypeStruct(jax.export.symbolic_shape(",".join(sizes), scope=scope), spec.dtype)
    return found


def _check_input(name: str, expected: PyTree, given: PyTree, sizes: dict[str, tuple[int, str]]) -> None:
    """Checks one input, and that sizes with a name are the same everywhere; `sizes` has those met so far."""
    if jax.tree.structure(expected) != jax.tree.structure(given):
        raise ShapeError(f"{name}: expected {jax.tree.structure(expected)}, got {jax.tree.structure(given)}")
    leaves = zip(trees.flatten(expected).items(), jax.tree.leaves(given), strict=True)
    for (path, spec), leaf in leaves:
        called = f"{name}/{path}" if path else name
        shape, dtype = np.shape(leaf), getattr(leaf, "dtype", np.asarray(leaf).dtype)
        wanted = f"{called}: expected {spec.dtype} ({', '.join(map(str, spec.shape))})"
        fixed = all(have == want for have, want in zip(shape, spec.shape, strict=False) if isinstance(want, int))
        if dtype != spec.dtype or len(shape) != len(spec.shape) or not fixed:
            raise ShapeError(f"{wanted}, got {dtype} {shape}")
        for have, want in zip(shape, spec.shape, strict=True):
            size, first = (want, "") if isinstance(want, int) else sizes.setdefault(str(want), (have, called))
            if size != have:
                raise ShapeError(f"{wanted}, got {shape}: {want} is {size} in {first}")


def _write_onnx(path: Path, model: nn.Module, variables: PyTree, name: str, function: Function) -> None:
    """Writes a function with the weights in it; its trees are flat there, their leaves in order."""
    to_onnx = _package("jax2onnx", _ONNX).to_onnx
    leaves, form = jax.tree.flatten(list(function.inputs.values()))
    variables = jax.tree.map(jnp.asarray, variables)  # numpy's can't be indexed by what is traced

    def run(*arrays):
        given = dict(zip(function.inputs, jax.tree.unflatten(form, arrays), strict=True))
        return tuple(jax.tree.leaves(_applied(model, function, variables, given)))

    try:
        with _any_platform():
            made = to_onnx(rewriting.said_anew(run, leaves), inputs=leaves, model_name=name).SerializeToString()
    except Exception as error:  # NotImplementedError names a primitive; what is beyond jax2onnx otherwise has any type
        what = str(error).partition("\n")[0] or type(error).__name__
        raise ExportError(f"{type(model).__name__} can't be said in ONNX: {what}") from error
    path.write_bytes(made)


@contextlib.contextmanager
def _any_platform() -> Iterator[None]:
    """Lets layers say what they do to platforms that they don't know by name: a graph of ONNX has none."""
    by_name = jax.lax.platform_dependent
    jax.lax.platform_dependent = lambda *arrays, default, **_: default(*arrays)
    try:
        yield
    finally:
        jax.lax.platform_dependent = by_name


def _load_onnx(path: Path) -> tuple[str, Callable[..., list[np.ndarray]]]:
    """The name of the function in a file, and what runs it, whose trees are flat."""
    session = _package("onnxruntime", _ONNX).InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]

    def run(**inputs: PyTree) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, jax.tree.leaves(list(inputs.values())), strict=True)))

    return session.get_modelmeta().graph_name, run


def _package(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f"this needs the package {name!r}: {extra}") from error
