"""Weights of other libraries as our variables and back: one table of rows, read in both directions.

A row says how another library's name maps to a leaf of ours:

    Rule("layer{stage+1}.{block}.conv{n}.weight", "params/stage{stage}_block{block}/conv{n}/kernel", CONV)

`{n}` stands for a decimal number, `{stage+1}` for one that is larger by 1 than `stage`; the same fields stand on both
sides. A target begins with its collection. Layers that are stacked by a scan have their number in brackets, behind the
module or the leaf: "params/layers[{layer}]/dense1/kernel"; so have experts inside them:
"params/layers[{layer}]/experts[{expert}]/up/kernel". A source may be one of several equal parts of an array, of its
first axis: "layers.{layer}.qkv.weight[0/3]" is the first of three; of its second: "[:,0/3]"; or every so many entries
of its last: "[...,0::3]". A row without a target names keys that carry nothing; there, `{*}` stands for any text. The
first row that fits a key and leads to a leaf of the model counts; of rows that lead to the same leaf, one whose names
the source has.

Both directions are strict: whatever isn't mapped, filled, or of the right shape and dtype is listed in one error.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import trees
from deepmodels.errors import WeightsError, nearest
from deepmodels.trees import PyTree

_SHOWN = 5  # entries of each kind in an error
_DIGITS = 9  # of a layer's number; a longer one isn't one


class Transform(NamedTuple):
    """What is done to an array on its way to us, and what undoes it on its way back."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda w: w, lambda w: w)
# (out, in, *window) and (*window, in, out), with any number of axes of the window, grouped or not. What torch keeps as
# (in, out, *window) for a transposed convolution becomes the kernel of `nn.ConvTranspose(transpose_kernel=True)`
CONV = Transform(lambda w: np.moveaxis(w, (0, 1), (-1, -2)), lambda w: np.moveaxis(w, (-1, -2), (0, 1)))
DENSE = Transform(lambda w: w.transpose(1, 0), lambda w: w.transpose(1, 0))  # (out, in) and (in, out)


def flatten_dense(channels: int, height: int, width: int) -> Transform:
    """Returns the transform of a dense kernel that follows a flattening of feature maps.

    (out, channels * height * width) from a library that flattens NCHW becomes (height * width * channels, out) for
    ours, which flatten NHWC.
    """

    def forward(w: np.ndarray) -> np.ndarray:
        return w.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def inverse(w: np.ndarray) -> np.ndarray:
        return w.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)

    return Transform(forward, inverse)


class Rule(NamedTuple):
    """A row of a table: a template of the source's keys, one of our leaves (None: they carry nothing), a transform."""

    source: str
    target: str | None
    transform: Transform = SAME


Rules = tuple[Rule, ...]


def conv(source: str, target: str, kernel: Transform = CONV) -> Rules:
    """Returns the rows of a convolution of torch: "weight" and "bias". `target` is a path inside "params"."""
    return Rule(f"{source}.weight", f"params/{target}/kernel", kernel), Rule(f"{source}.bias", f"params/{target}/bias")


def dense(source: str, target: str, kernel: Transform = DENSE) -> Rules:
    """Returns the rows of a dense layer of torch: "weight" and "bias". `target` is a path inside "params"."""
    return conv(source, target, kernel)


def attention(source: str, target: str, inputs: str = "in_proj_", out: str = "out_proj") -> Rules:
    """Returns the rows of an attention of torch that has queries, keys and values in one array.

    Args:
      source: the attention's name.
      target: a path inside "params".
      inputs: what stands there before "weight" and "bias" of that array.
      out: the name of its last layer.
    """
    return (
        *(
            row
            for i, name in enumerate(("query", "key", "value"))
            for row in (
                Rule(f"{source}.{inputs}weight[{i}/3]", f"params/{target}/{name}/kernel", DENSE),
                Rule(f"{source}.{inputs}bias[{i}/3]", f"params/{target}/{name}/bias"),
            )
        ),
        *dense(f"{source}.{out}", f"{target}/out"),
    )


def layer_norm(source: str, target: str) -> Rules:
    """Returns the rows of a normalisation of torch without statistics. `target` is a path inside "params"."""
    return Rule(f"{source}.weight", f"params/{target}/scale"), Rule(f"{source}.bias", f"params/{target}/bias")


def batch_norm(source: str, target: str) -> Rules:
    """Returns the rows of a batch normalisation of torch, statistics included. `target` is a path inside a collection.

    The running variance is taken as it is: torch's is the average of unbiased variances, ours of biased ones, but
    evaluation uses what is stored in the same way.
    """
    return (
        *layer_norm(source, target),
        Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
        Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
        Rule(f"{source}.num_batches_tracked", None),
    )


def to_ours(
    source: Mapping[str, np.ndarray],
    rules: Iterable[Rule],
    variables: PyTree,
    *,
    cast: bool = False,
    fresh: str | None = None,
    shardings: PyTree | None = None,
) -> PyTree:
    """Returns the variables of a model from the arrays of another library.

    One of the source's arrays is in memory at a time, if it reads them when they are asked for.

    Args:
      source: arrays by the other library's names, or what has their shape and dtype and becomes one by `np.asarray`.
      rules: the table of this model and library.
      variables: the model's variables, or their shapes and dtypes, as `jax.eval_shape(model.init, ...)` gives them.
      cast: whether a float of another precision may be converted to the model's; otherwise it is an error.
      fresh: a regular expression of leaves, without their collection, that aren't taken from the source: "head/.*" for
        a head with other classes. They come back as they are in `variables`.
      shardings: where each leaf goes, in the form of `variables`, if not into numpy arrays: each device is given its
        part of one leaf after the other, and a process reads nothing else.

    Returns:
      numpy arrays in the form of `variables`, or JAX's where there are shardings.

    Raises:
      WeightsError: a key isn't known, a leaf isn't filled or is filled twice, or a shape or dtype differs.
    """
    rules = tuple(rules)
    source = _cut(source, rules)
    slots = _slots(variables, rules, source)
    slots = {name: slot for name, slot in slots.items() if not is_fresh(slot.leaf, fresh)}
    filled_by: dict[str, str] = {}
    unknown, wrong = {}, []
    for key, entry in source.items():
        rows = list(_matches(key, rules))
        row = next((row for row in rows if row[0] is None or row[0] in slots or is_fresh(row[0], fresh)), None)
        if row is None:
            unknown[key] = rows[0][0] if rows else None
            continue
        name, transform = row
        if name not in slots:
            continue
        if name in filled_by:
            wrong.append(f"{key} and {filled_by[name]} both fill {name}")
            continue
        filled_by[name] = key
        slots[name] = slots[name]._replace(transform=transform)
        try:
            _check_fit(entry, slots[name], cast)
        except ValueError as error:
            wrong.append(f"{key} {error}")
    missing = [name for name in slots if name not in filled_by]
    _raise_any(
        "the weights don't fit the model",
        {
            "not in the model": [
                _explain(key, leaf, [slots[name].key for name in missing]) for key, leaf in unknown.items()
            ],
            "missing": [f"{slots[name].key or 'a row of the table'} for {name}" for name in missing],
            "wrong": wrong,
        },
    )
    parts: dict[str, list[tuple[_Slot, _Entry]]] = {}
    for name, slot in slots.items():
        parts.setdefault(slot.leaf, []).append((slot, source[filled_by[name]]))

    def gather(name: str, leaf: Any, sharding: Any = None) -> Any:
        if name not in parts:
            return leaf
        read = partial(_read_block, parts[name], tuple(leaf.shape), np.dtype(leaf.dtype))
        if sharding is None:
            return read((slice(None),) * len(leaf.shape))
        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return trees.map_named(gather, variables, *(() if shardings is None else (shardings,)))


def from_ours(variables: PyTree, rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """Returns a model's variables as the arrays of another library, by its names; the inverse of `to_ours`.

    Raises:
      WeightsError: a leaf isn't in the table, or two leaves have the same name there.
    """
    leaves = trees.flatten(variables)
    arrays: dict[str, np.ndarray] = {}
    unknown, wrong = [], []
    for name, slot in _slots(variables, tuple(rules)).items():
        if slot.key is None:
            unknown.append(name)
        elif slot.key in arrays:
            wrong.append(f"{name} is not the only leaf that is named {slot.key}")
        else:
            leaf = leaves[slot.leaf][slot.index]
            arrays[slot.key] = np.asarray(slot.transform.inverse(np.asarray(leaf)), order="C")
    wrong += [f"{name} is only a part of {_whole(name)}" for name in _lone_parts(arrays)]
    _raise_any("the variables don't fit the table", {"not in the table": unknown, "wrong": wrong})
    return _joined(arrays)


def same_names(variables: PyTree) -> Rules:
    """Returns the table of arrays that are named as our leaves are: "params/conv1/kernel"."""
    return tuple(Rule(name, name) for name in trees.flatten(variables))


def is_fresh(name: str, pattern: str | None) -> bool:
    """Returns whether a leaf, or a layer of a stacked one, is among those that a regular expression leaves out.

    Args:
      name: with its collection, "params/head/kernel".
      pattern: of names without their collection, "head/.*"; None fits none.
    """
    return pattern is not None and re.fullmatch(pattern, _INDEX.sub("", name.partition("/")[2])) is not None


def count_known(keys: Iterable[str], rules: Rules) -> int:
    """Returns how many of another library's names a table knows."""
    parts = _parts(rules)
    whole = tuple(rule._replace(source=_whole(rule.source)) for rule in rules) if parts else rules
    return sum(any(True for _ in _matches(key, whole)) for key in keys)


class _Slot(NamedTuple):
    """A leaf, or one layer of a stacked leaf: what it needs and where the other library has it."""

    leaf: str
    index: tuple[int, ...]  # on the leaf's first axes
    shape: tuple[int, ...]
    dtype: np.dtype
    key: str | None
    transform: Transform


class _Entry(NamedTuple):
    """An array of the source, which may be read when it is asked for, or a part of one."""

    array: Any
    part: Callable[[np.ndarray], np.ndarray] = lambda whole: whole

    def read(self) -> np.ndarray:
        return self.part(np.asarray(self.array))

    def blank(self) -> np.ndarray:
        """Zeros of its shape and dtype, that take no memory."""
        return self.part(np.broadcast_to(np.zeros((), self.array.dtype), self.array.shape))


def _slots(variables: PyTree, rules: Rules, source: Collection[str] | None = None) -> dict[str, _Slot]:
    """All slots by name; where several rows lead to a leaf, by those whose names a source has, if there is one."""
    found = [rule for rule in rules if source is None or any(_match(rule.source, key) is not None for key in source)]
    slots = {}
    for name, leaf in trees.flatten(variables).items():
        shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
        rows = _rows(name, found) or _rows(name, rules) or name
        depth = min(rows.count("[%d]"), len(shape))
        for index in np.ndindex(*shape[:depth]):
            slot = rows % index if depth else name
            key, transform = _origin(slot, found)
            if key is None:
                key, transform = _origin(slot, rules)
            slots[slot] = _Slot(name, index, shape[depth:], dtype, key, transform)
    return slots


class Origin(NamedTuple):
    """Where another library has a leaf of ours, or one layer of a stacked leaf."""

    leaf: str
    index: tuple[int, ...]  # on the leaf's first axes
    key: str | None  # of the whole array; None where the table has none
    part: int  # which part of that array
    parts: int  # how many it has
    transform: Transform


def origins(variables: PyTree, rules: Iterable[Rule]) -> list[Origin]:
    """Returns where another library has each leaf of a model's variables, or of their shapes, by its table."""
    found = []
    for slot in _slots(variables, tuple(rules)).values():
        part = None if slot.key is None else _PART.fullmatch(slot.key)
        number, count = (0, 1) if part is None else (int(part[3]), int(part[5]))
        key = None if slot.key is None else _whole(slot.key)
        found.append(Origin(slot.leaf, slot.index, key, number, count, slot.transform))
    return found


_BRACKETS = re.compile(r"\[\{\w+(?:[+-]\d+)?\}\]")


def _rows(name: str, rules: Iterable[Rule]) -> str | None:
    """What the slots of a leaf are called, "params/layers[%d]/dense1/kernel", by the first row that leads to it."""
    for rule in rules:
        if rule.target is not None and _match(_BRACKETS.sub("", rule.target), name) is not None:
            pairs = zip(name.replace("%", "%%").split("/"), rule.target.split("/"), strict=True)
            return "/".join(own + "[%d]" if said.endswith("]") else own for own, said in pairs)
    return None


def _origin(name: str, rules: Iterable[Rule]) -> tuple[str | None, Transform]:
    """The other library's name of a leaf of ours, by the first row that has one."""
    for rule in rules:
        fields = None if rule.target is None else _match(rule.target, name)
        key = None if fields is None else _write(rule.source, fields)
        if key is not None:
            return key, rule.transform
    return None, SAME


def _matches(key: str, rules: Rules) -> Iterable[tuple[str | None, Transform]]:
    """What each row that fits a key leads to."""
    for rule in rules:
        fields = _match(rule.source, key)
        if fields is not None:
            target = None if rule.target is None else _write(rule.target, fields)
            if rule.target is None or target is not None:
                yield target, rule.transform


_INDEX = re.compile(r"\[\d+\]")
_PART = re.compile(r"(.*)\[(:,|\.\.\.,|)(\d+)(/|::)(\d+)\]", re.DOTALL)


class _Part(NamedTuple):
    """One of some equal parts of an array: where it is cut, and how many parts there are."""

    axis: int
    strided: bool
    count: int

    def cut(self, number: int, whole: np.ndarray) -> np.ndarray:
        if self.strided:
            return whole[..., number :: self.count]
        return np.array_split(whole, self.count, axis=self.axis)[number]

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        if self.strided:
            return np.stack(parts, -1).reshape(*parts[0].shape[:-1], -1)
        return np.concatenate(parts, self.axis)

    def name(self, whole: str, number: int) -> str:
        where = "...," if self.strided else ":," if self.axis else ""
        return f"{whole}[{where}{number}{'::' if self.strided else '/'}{self.count}]"


def _part_of(name: str) -> tuple[str, _Part] | None:
    """The name of the whole and the kind of part that a name stands for; None if it is of no part."""
    found = _PART.fullmatch(name)
    if found is None or (found[2] == "...,") != (found[4] == "::"):
        return None
    return found[1], _Part(-1 if found[4] == "::" else len(found[2]) // 2, found[4] == "::", int(found[5]))


def _whole(name: str) -> str:
    """The name of the array that a name with a part at its end is a part of."""
    part = _part_of(name)
    return part[0] if part else name


def _parts(rules: Rules) -> dict[str, _Part]:
    """The templates of arrays that rows take parts of, and how they are cut."""
    return dict(part for rule in rules if (part := _part_of(rule.source)))


def _cut(source: Mapping[str, Any], rules: Rules) -> dict[str, _Entry]:
    """The source with the arrays cut that rows take parts of."""
    parts, entries = _parts(rules), {}
    for key, array in source.items():
        part = next((part for template, part in parts.items() if _match(template, key) is not None), None)
        if part is None or len(array.shape) <= max(part.axis, 0):
            entries[key] = _Entry(array)
        else:
            entries |= {part.name(key, i): _Entry(array, partial(part.cut, i)) for i in range(part.count)}
    return entries


def _lone_parts(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The parts whose other parts aren't there."""
    found = {name: part for name in arrays if (part := _part_of(name))}
    return [
        name
        for name, (whole, part) in found.items()
        if any(part.name(whole, i) not in arrays for i in range(part.count))
    ]


def _joined(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with their parts joined."""
    joined: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        found = _part_of(name)
        if found is None:
            joined[name] = array
        elif found[0] not in joined:
            whole, part = found
            joined[whole] = part.join([arrays[part.name(whole, i)] for i in range(part.count)])
    return joined


def _check_fit(entry: _Entry, slot: _Slot, cast: bool) -> None:
    """Raises ValueError if an array can't become what a slot needs."""
    blank = entry.blank()
    is_text = f"is {blank.dtype}{list(blank.shape)}"
    wants = f"{slot.leaf} needs {slot.dtype}{list(slot.shape)}"
    try:
        fitted = slot.transform.forward(blank)
    except ValueError:
        raise ValueError(f"{is_text}, which can't become what {wants}") from None
    if fitted.shape != slot.shape:
        raise ValueError(f"{is_text}, which becomes {list(fitted.shape)}, but {wants}")
    if fitted.dtype != slot.dtype:
        floats = jnp.issubdtype(fitted.dtype, np.floating) and jnp.issubdtype(slot.dtype, np.floating)
        if not floats or not cast:
            raise ValueError(f"{is_text}, but {wants}" + ("; cast=True converts it" if floats else ""))


def _read_block(
    parts: list[tuple[_Slot, _Entry]], shape: tuple[int, ...], dtype: np.dtype, block: tuple[slice, ...]
) -> np.ndarray:
    """A block of a leaf, from the arrays that its slots are read from."""
    places = [range(*cut.indices(size)) for cut, size in zip(block, shape, strict=True)]
    values = np.empty([len(place) for place in places], dtype)  # a copy: the source may be the caller's own
    for slot, entry in parts:
        depth = len(slot.index)
        if all(i in place for i, place in zip(slot.index, places, strict=False)):
            where = tuple(i - place[0] for i, place in zip(slot.index, places, strict=False))
            values[where] = slot.transform.forward(entry.read())[block[depth:]]
    return values


_FIELD = re.compile(r"\{(\*|\w+)([+-]\d+)?\}")


@lru_cache(maxsize=4096)
def _template(template: str) -> tuple[re.Pattern, tuple[tuple[str, int], ...]]:
    """A template as a regular expression, and the name and offset of each of its groups."""
    fields, pattern, end = [], "", 0
    for found in _FIELD.finditer(template):
        pattern += re.escape(template[end : found.start()])
        pattern += "(.*)" if found[1] == "*" else "(0|[1-9][0-9]*)"
        fields.append((found[1], int(found[2] or 0)))
        end = found.end()
    return re.compile(pattern + re.escape(template[end:]), re.DOTALL), tuple(fields)


def _match(template: str, text: str) -> dict[str, int] | None:
    """The fields of a template in a text that it fits; None if it doesn't."""
    pattern, fields = _template(template)
    found = pattern.fullmatch(text)
    if found is None:
        return None
    values: dict[str, int] = {}
    for (name, offset), digits in zip(fields, found.groups(), strict=True):
        if name == "*":
            continue
        value = int(digits[:_DIGITS]) - offset
        if value < 0 or len(digits) > _DIGITS or values.setdefault(name, value) != value:
            return None
    return values


def _write(template: str, fields: Mapping[str, int]) -> str | None:
    """A template with its fields filled in; None if a number would be negative."""
    numbers = [fields[name] + offset for name, offset in _template(template)[1]]
    if any(number < 0 for number in numbers):
        return None
    remaining = iter(numbers)
    return _FIELD.sub(lambda _: str(next(remaining)), template)


def _explain(key: str, leaf: str | None, missing: Iterable[str | None]) -> str:
    if leaf is not None:
        return f"{key} (it would be {leaf})"
    hint = nearest(key, [other for other in missing if other is not None])
    return f"{key} ({hint})" if hint.startswith("did") else key


def _raise_any(summary: str, problems: Mapping[str, list[str]]) -> None:
    lines = []
    for kind, entries in problems.items():
        if entries:
            more = [f"and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
            lines.append(f"{len(entries)} {kind}: {'; '.join(entries[:_SHOWN] + more)}")
    if lines:
        raise WeightsError(f"{summary}.\n  " + "\n  ".join(lines))
