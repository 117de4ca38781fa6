"""Crafted and damaged files are refused with one clear error; nothing runs, nothing is written, memory stays small."""

import builtins
import io
import json
import os
import pickle
import re
import struct
import tracemalloc
import warnings
import zipfile

import msgpack
import numpy as np
import orbax.checkpoint as v0
import pickles
import pytest
from flax import serialization
from orbax.checkpoint import v1 as ocp
from pickles import called, mapping, named, number, program, text, whole

from deepmodels.errors import WeightsError
from deepmodels.weights import files

SMALL = 32 * 2**20  # bytes: more than any refusal needs, less than any of the claims below
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def refused(tmp_path):
    """Returns a function that reads a file's bytes and returns what is said; it fails if anything is done."""

    def read(data: bytes, name: str = "model.bin") -> str:
        (tmp_path / name).write_bytes(data)
        before = sorted(tmp_path.rglob("*"))
        tracemalloc.start()
        try:
            with pytest.raises(WeightsError) as error:
                files.read(tmp_path / name)
            assert tracemalloc.get_traced_memory()[1] < SMALL
        finally:
            tracemalloc.stop()
        assert sorted(tmp_path.rglob("*")) == before
        assert name in str(error.value)
        assert len(str(error.value)) < 1000
        return str(error.value)

    return read


# safetensors


def safetensors(header, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(4,), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS = {
    "empty": (b"", "header would be 0 bytes"),
    "cut in the length": (b"\x10\0\0", "header would be"),
    "header of 2^63 bytes": (safetensors({}, length=2**63), "header would be 9,223,372,036,854,775,808 bytes"),
    "header of 2^40 bytes": (safetensors({}, length=2**40), "header would be"),
    "header beyond the file": (safetensors({"a": entry()}, b"", length=10_000), "header would be"),
    "overlap": (safetensors({"a": entry(), "b": entry(offsets=(8, 24))}, bytes(24)), "begins at byte 8"),
    "the same bytes twice": (safetensors({"a": entry(), "b": entry()}), "begins at byte 0"),
    "hole": (safetensors({"a": entry(), "b": entry(offsets=(20, 36))}, bytes(36)), "where 16 is free"),
    "offsets beyond the file": (safetensors({"a": entry((400,), (0, 1600))}), "describes 1,600 bytes"),
    "offsets reversed": (safetensors({"a": entry(offsets=(16, 0))}), "isn't what -16 bytes hold"),
    "offsets negative": (safetensors({"a": entry(offsets=(-16, 0))}), "natural numbers"),
    "trailing bytes": (safetensors({"a": entry()}, bytes(17)), "the file has 17"),
    "cut": (safetensors({"a": entry()}, bytes(15)), "the file has 15"),
    "shape too large": (safetensors({"a": entry((5,))}), "isn't what 16 bytes hold"),
    "shape too small": (safetensors({"a": entry((3,))}), "isn't what 16 bytes hold"),
    "shape that overflows": (safetensors({"a": entry((2**62, 2**62, 4))}), "isn't what 16 bytes hold"),
    "shape that only numpy refuses": (safetensors({"a": entry((2**62, 0), (0, 0))}, b""), "isn't what 0 bytes hold"),
    "shape negative": (safetensors({"a": entry((-2, -2))}), "natural numbers"),
    "shape of floats": (safetensors({"a": entry((4.0,))}), "natural numbers"),
    "shape of bools": (safetensors({"a": entry((True,), (0, 4))}, bytes(4)), "natural numbers"),
    "hundred axes": (safetensors({"a": entry((1,) * 99 + (4,))}), "natural numbers"),
    "unknown dtype": (safetensors({"a": entry(dtype="object")}), "unknown dtype 'object'"),
    "dtype of another kind": (safetensors({"a": entry(dtype=["F32"])}), "unknown dtype"),
    "wrong dtype": (safetensors({"a": entry(dtype="F64")}), r"'a' is F64\[4\]"),
    "other fields": (safetensors({"a": entry() | {"code": "x"}}), "needs a dtype"),
    "no fields": (safetensors({"a": 3}), "needs a dtype"),
    "twice": (safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2)), "'a' occurs twice"),
    "field twice": (
        safetensors(b'{"a":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}'),
        "occurs twice",
    ),
    "deep": (safetensors(b'{"a":' + b"[" * 200_000), "can be used"),
    "not JSON": (safetensors(b"{not json}"), "can be used"),
    "bad UTF-8": (safetensors(b'{"\xff\xfe":1}'), "can be used"),
    "a list": (safetensors(b"[]"), "isn't an object"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}, b""), "metadata"),
    "a number too long": (safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9999 + b"]}}"), "can be used"),
    "path": (safetensors({"../../etc/passwd": entry()}), "of a path"),
    "path from the root": (safetensors({"/etc/passwd": entry()}), "of a path"),
    "backslashes": (safetensors({"..\\x": entry()}), "of a path"),
    "control characters": (safetensors({"a\x1b[2J": entry()}), "can't be printed"),
    "no name": (safetensors({"": entry()}), "isn't the name"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(refused, case):
    data, said = SAFETENSORS[case]
    message = refused(data, "model.safetensors")
    assert re.search(said, message), message


def test_safetensors_that_are_whole_are_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors({"a": entry((2, 2)), "b": entry((0, 3), (16, 16))}))
    assert {name: array.shape for name, array in files.read(tmp_path / "a.safetensors").items()} == {
        "a": (2, 2),
        "b": (0, 3),
    }


def test_not_a_number_is_a_number(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors({"a": entry()}, struct.pack("<4f", *[float("nan")] * 4)))
    assert np.isnan(files.read(tmp_path / "a.safetensors")["a"]).all()


# programs in pickles


class Payload:
    """Pickles to a program that makes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(path: str) -> dict[str, bytes]:
    """Programs, without their beginning and end, that make the file `path` when Python's own unpickler runs them."""
    command, source = f"touch '{path}'", f"open({path!r}, 'w').close()"
    forms = {}
    for protocol in range(6):
        for name, payload in {
            "os.system": Payload(os.system, command),
            "eval": Payload(builtins.eval, source),
            "exec": Payload(builtins.exec, source),
        }.items():
            dumped = pickle.dumps(payload, protocol)
            forms[f"{name}, protocol {protocol}"] = dumped[2:-1] if protocol > 1 else dumped[:-1]
    line = lambda value: b"S" + repr(value).encode() + b"\n"  # noqa: E731
    forms["INST"] = b"(" + line(command) + b"ios\nsystem\n"
    forms["OBJ"] = b"(" + named("os", "system") + line(command) + b"o"
    forms["NEWOBJ"] = named("subprocess", "Popen") + text(command) + b"\x85\x81"
    forms["BUILD"] = named("os", "system") + b"}" + text("__setstate__") + number(1) + b"sb"
    forms["dotted name"] = b"\x8c\x0dtorch._utils_\x8c\x1c_rebuild_tensor_v2.__globals__\x93"
    forms["in a dict"] = mapping({"w": called(named("os", "system"), text(command))})
    forms["as an argument"] = called(named("collections", "OrderedDict"), called(named("os", "system"), text(command)))
    forms["as a storage's kind"] = (
        pickles.many(text("storage"), called(named("os", "system"), text(command)), text("0"), text("cpu"), number(6))
        + b"Q"
    )
    forms["popped"] = called(named("os", "system"), text(command)) + b"0}"
    forms["after a mark"] = b"(" + called(named("os", "system"), text(command)) + b"1}"
    forms["memoised"] = called(named("os", "system"), text(command)) + b"q\0" + b"}"
    for module, name in [
        ("torch", "load"), ("torch.hub", "load"), ("numpy", "load"), ("numpy.core.multiarray", "_reconstruct"),
        ("functools", "partial"), ("builtins", "__import__"), ("posix", "system"), ("nt", "system"),
        ("__builtin__", "eval"),
        ("torch._utils", "_rebuild_tensor_v2\nos"), ("collections", "OrderedDict.fromkeys"), ("", ""),
        ("torch", "FloatStorage.from_file"), ("torch.nn.modules.linear", "Linear"), ("argparse", "Namespace"),
    ]:  # fmt: skip
        forms[f"{module}.{name}"] = called(named(module, name), text(command))
    return forms


FORMS = sorted(payloads("unused"))


@pytest.mark.parametrize("place", ["archive", "head", "protocol", "system", "content", "keys"])
def test_nothing_in_a_pickle_is_executed(refused, tmp_path, place):
    sentinel = tmp_path / "executed"
    for form, payload in payloads(str(sentinel)).items():
        parts = [pickles.MAGIC, *map(program, (number(1001), mapping({"little_endian": b"\x88"}), mapping({}), b"]"))]
        if place == "archive":
            data = pickles.archive(payload, {})
        else:
            parts[["head", "protocol", "system", "content", "keys"].index(place)] = program(payload)
            data = b"".join(parts)
        said = refused(data)
        assert not sentinel.exists(), form
        if form.startswith(("os.system", "INST", "OBJ", "eval")):
            assert "was not executed" in said or "instruction" in said, form


def test_the_payloads_do_work_in_pythons_own_unpickler(tmp_path):
    """Else the test above would prove nothing."""
    worked = 0
    for form, payload in payloads(str(tmp_path / "executed")).items():
        if not form.startswith(
            ("os.system", "eval", "exec", "INST", "OBJ", "NEWOBJ", "in a", "as an", "popped", "memo")
        ):
            continue
        if form == "NEWOBJ":
            continue
        try:
            pickle.loads(program(payload))
        except Exception:
            assert form.startswith("as an")
        assert (tmp_path / "executed").exists(), form
        (tmp_path / "executed").unlink()
        worked += 1
    assert worked > 20


def test_the_refused_name_is_said(refused):
    said = refused(pickles.archive(called(named("os", "system"), text("true")), {}))
    assert "its pickle names os.system, which is neither a tensor nor a container; it was not executed" in said
    assert "state_dict() alone" in said


# tensors that don't fit their storage

HUGE = 2**62


@pytest.mark.parametrize("form", ["archive", "stream"])
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((2, 3), (3, 2), 0),
        ((6,), (1,), 1),
        ((1,), (1,), 6),
        ((6,), (1,), -1),
        ((-6,), (1,), 0),
        ((2, 3), (-3, 1), 5),
        ((HUGE,), (0,), 0),
        ((10**5, 10**5), (0, 0), 0),
        ((HUGE, 4), (0, 0), 0),
        ((HUGE, 0), (1, 1), 0),
        ((2,), (HUGE,), 0),
        ((1,), (1,), HUGE),
        ((2, 3), (3,), 0),
        ((1,) * 100, (1,) * 100, 0),
    ],
)
def test_a_tensor_never_leaves_its_storage(refused, form, size, stride, offset):
    extra = b"N" if form == "stream" else b""
    content = mapping({"w": pickles.tensor(pickles.storage("float32", "0", 6, extra=extra), size, stride, offset)})
    if form == "stream":
        refused(pickles.stream(content, {"0": WEIGHT}))
    else:
        refused(pickles.archive(content, {"data/0": WEIGHT.tobytes()}))


@pytest.mark.parametrize("count", [5, 7, 0, -6, HUGE])
def test_a_storage_of_another_size_than_it_says(refused, count):
    content = mapping({"w": pickles.tensor(pickles.storage("float32", "0", count), (2, 3), (3, 1))})
    refused(pickles.archive(content, {"data/0": WEIGHT.tobytes()}))
    stream = pickles.stream(mapping({"w": whole("0", WEIGHT, b"N")}), {"0": WEIGHT})
    data = WEIGHT.tobytes()
    refused(stream.replace(struct.pack("<q", 6) + data, struct.pack("<q", count) + data))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (mapping({"w": whole("1", WEIGHT)}), "damaged"),
        (mapping({"w": whole("../../../etc/passwd", WEIGHT)}), "damaged"),
        (mapping({"w": pickles.storage("float32", "0", 6)}), "not a tensor"),
        (mapping({"w": pickles.storage("float32", "0", 6, kind="module")}), "isn't a storage"),
        (text("torch") + b"Q", "damaged"),
        (mapping({"a": whole("0", WEIGHT), "b": whole("0", WEIGHT.astype(np.int64))}), "described in two ways"),
        (mapping({"w": whole("0", WEIGHT, pickles.many(text("1"), number(0), number(6)))}), r"before torch 0\.4"),
        (whole("0", WEIGHT), "a tensor, not a state dict"),
        (mapping({"epoch": number(3)}), "'epoch' is a int, not a tensor"),
        (b"}" + number(3) + whole("0", WEIGHT) + b"s", "a key is 3, not text"),
        (b"}(]" + number(1) + b"u", "damaged"),
        (b"}(" + text("a") + b"u", "damaged"),
        (b"}" + b"\x85" * 50 + number(1) + b"s", "damaged"),
        (number(1) + number(1) + b"a", "damaged"),
        (b"h\x09", "damaged"),
        (b"t", "damaged"),
        (b"R", "damaged"),
        (b"\x85", "damaged"),
        (b"", "damaged"),
        (b"X\xff\xff\xff\x7fabc", "damaged"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f", "damaged"),
        (b"]r\xff\xff\xff\xff", "a list, not a state dict"),  # a memo of 2^32 entries, in Python's own unpickler
        (b"\x82\x01", "instruction EXT1"),
        (b"\xff", "damaged"),
    ],
)
def test_programs_that_make_no_sense(refused, content, said):
    message = refused(pickles.archive(content, {"data/0": WEIGHT.tobytes()}))
    assert re.search(said, message), message


def test_nested_keys_are_not_hashed(refused):
    """The hash of a tuple of itself, sixty times over, takes longer than the universe has had."""
    nested = number(1) + b"q\0" + b"h\0\x86q\0" * 60
    assert "neither text nor a number" in refused(pickles.archive(b"}" + nested + b"Ns", {}))
    pairs = b"](" + pickles.many(nested, number(1)) + b"e"
    assert "neither text nor a number" in refused(
        pickles.archive(called(named("collections", "OrderedDict"), pairs), {})
    )


def test_a_dict_in_itself(refused):
    assert "'a' is a dict" in refused(pickles.archive(b"}q\0" + text("a") + b"h\0s", {}))
    refused(pickles.archive(b"}q\0" + text("model") + b"h\0s", {}))


# archives


def archive(members: list[tuple[str, bytes]], compression=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as out:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            out.writestr(name, data)
    return file.getvalue()


PROGRAM = ("archive/data.pkl", program(mapping({"w": whole("0", WEIGHT)})))
DATA = ("archive/data/0", WEIGHT.tobytes())


def test_the_archive_is_read_when_nothing_is_wrong(tmp_path):
    (tmp_path / "a.pth").write_bytes(archive([PROGRAM, DATA]))
    np.testing.assert_array_equal(files.read(tmp_path / "a.pth")["w"], WEIGHT)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([PROGRAM, DATA, ("../evil.txt", b"x")], "leads out of the archive"),
        ([PROGRAM, DATA, ("archive/../../evil.txt", b"x")], "leads out of the archive"),
        ([PROGRAM, DATA, ("/etc/evil.txt", b"x")], "leads out of the archive"),
        ([PROGRAM, DATA, ("..\\evil.txt", b"x")], "leads out of the archive"),
        ([PROGRAM, PROGRAM, DATA], "two members have the same name"),
        ([PROGRAM, ("other/data.pkl", PROGRAM[1]), DATA], r"no data\.pkl"),
        ([DATA], r"no data\.pkl"),
        ([PROGRAM], "damaged"),
        ([PROGRAM, DATA, ("archive/byteorder", b"big")], "big-endian"),
    ],
)
def test_archives(refused, members, said):
    message = refused(archive(members))
    assert re.search(said, message), message


def test_a_compressed_archive_is_not_expanded(refused):
    bomb = ("archive/data/0", bytes(200 * 2**20))
    assert "is compressed" in refused(archive([PROGRAM, bomb], zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_a_member_that_claims_to_be_large(refused, size):
    data = archive([PROGRAM, DATA])
    claim = struct.pack("<I", size)
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # the second entry of the directory
    lying = data[: at + 20] + claim + claim + data[at + 28 :]
    assert "larger than the file" in refused(lying)
    assert "is compressed" in refused(data[: at + 24] + claim + data[at + 28 :])


@pytest.mark.parametrize("form", ["archive", "stream"])
def test_every_truncation_is_refused(tmp_path, form):
    data = pickles.state_dict({"w": WEIGHT, "b": WEIGHT[0]}, form)
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    assert len(files.read(path)) == 2
    for length in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError):
            files.read(path)


@pytest.mark.parametrize("form", ["archive", "stream", "safetensors", "npz", "msgpack"])
def test_flipped_bytes_give_arrays_or_the_error(tmp_path, form):
    """Whatever else comes of damage, it is no other exception, and no array larger than the file."""
    arrays = {"w": WEIGHT, "b": WEIGHT[0]}
    path = tmp_path / "a"
    if form == "msgpack":
        path.write_bytes(serialization.to_bytes(arrays))
    elif form in ("npz", "safetensors"):
        files.write(tmp_path / f"a.{form}", arrays)
        path = tmp_path / f"a.{form}"
    else:
        path.write_bytes(pickles.state_dict(arrays, form))
    data, refusals = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for _ in range(250):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[position] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            found = files.read(path)
            assert sum(array.size for array in found.values()) <= len(data)
        except WeightsError:
            refusals += 1
    assert refusals > 50


def test_a_big_endian_stream(refused):
    content = mapping({"w": whole("0", WEIGHT, b"N")})
    assert "big-endian" in refused(pickles.stream(content, {"0": WEIGHT}, little_endian=b"\x89"))


# npz


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header.encode() + data


def described(dtype="<f4", shape="(6,)", order="False") -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy(described("|O"), pickle.dumps([1])), "isn't a number"),
        (npy(described("<U8", "(1,)"), bytes(32)), "isn't a number"),
        (npy(described("|V4", "(6,)"), bytes(24)), "isn't a number"),
        (npy(described([("a", "<f4")], "(6,)"), bytes(24)), "isn't a number"),
        (npy(described(shape="(7,)"), bytes(24)), r"float32\[7\] in 24 bytes"),
        (npy(described(shape="(4000000000000,)"), bytes(24)), "in 24 bytes"),
        (npy(described(shape=f"({2**62}, 0)"), b""), "can be used"),
        (npy(described(shape="(-6,)"), bytes(24)), "shape"),
        (npy(described(shape="(True,)"), bytes(4)), "shape"),
        (npy(described(shape=f"({'1,' * 99})"), bytes(4)), "shape"),
        (npy("__import__('os').system('true')"), "can be used"),
        (npy("{" * 5000), "can be used"),
        (npy(described(), bytes(24), b"\x03\x00"), "doesn't begin"),
        (npy(described(), bytes(24), b"\x09\x00"), "doesn't begin"),
        (b"", "can be used"),
        (b"not an array at all", "can be used"),
    ],
)
def test_npz(refused, member, said):
    message = refused(archive([("w.npy", member)]), "model.npz")
    assert re.search(said, message), message


def test_an_npz_of_objects(refused, tmp_path):
    np.savez(tmp_path / "source.npz", w=np.array([Payload(os.system, f"touch {tmp_path}/executed")], dtype=object))
    refused((tmp_path / "source.npz").read_bytes())
    assert not (tmp_path / "executed").exists()


def test_an_npz_that_expands(refused):
    member = npy(described("|u1", f"({100 * 2**20},)"), bytes(100 * 2**20))
    assert "would take" in refused(archive([("w.npy", member)], zipfile.ZIP_DEFLATED))
    whole = archive([("w.npy", npy(described(), WEIGHT.tobytes()))])
    at = whole.index(b"PK\x01\x02")
    assert "would take" in refused(whole[: at + 24] + struct.pack("<I", 2**31) + whole[at + 28 :])


def test_an_npz_whose_member_claims_to_be_larger_than_the_file(refused, tmp_path):
    """Found by test_fuzz.py: zipfile takes a GiB for it."""
    files.write(tmp_path / "a.npz", {"w": WEIGHT})
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.index(b"PK\x01\x02") + 20
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    tracemalloc.start()
    assert "larger than the file" in refused(bytes(data))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_an_npz_of_two_equal_names_or_of_a_path(refused):
    member = npy(described(), WEIGHT.tobytes())
    assert "same name" in refused(archive([("w.npy", member), ("w.npy", member)]))
    assert "of a path" in refused(archive([("../../w.npy", member)]))


# msgpack


def array_of(shape=(6,), dtype="float32", code=1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, WEIGHT.tobytes()), use_bin_type=True))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (array_of((7,)), r"float32\[7\] in 24 bytes"),
        (array_of((2**62, 4)), "in 24 bytes"),
        (array_of((-6,)), "shape"),
        (array_of(("6",)), "shape"),
        (array_of((1,) * 99), "can be used"),
        (array_of(dtype="O"), "isn't a number"),
        (array_of(dtype="f4,f4"), "isn't a number"),
        (array_of(dtype="V4"), "isn't a number"),
        (array_of(dtype="no such"), "can be used"),
        (array_of(code=2), "unknown type 2"),
        (array_of(code=77), "unknown type 77"),
        (msgpack.ExtType(1, b"\xdd\xff\xff\xff\xff"), "can be used"),
        (msgpack.ExtType(1, b""), "can be used"),
        ([1, 2, 3], "is a list"),
        ("text", "is a str"),
        (3, "is a int"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 2**62}, "chunks": {"0": array_of()}}, "can be used"),
        ({"__msgpack_chunked_array__": True, "shape": 3, "chunks": 4}, "can be used"),
    ],
)
def test_msgpack(refused, value, said):
    message = refused(msgpack.packb({"params": {"w": value}}), "model.msgpack")
    assert re.search(said, message), message


HUGE_LENGTHS = {
    "list": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "array": b"\xc9\xff\xff\xff\xff\x01",
    "deep": b"\x81\xa1a" * 5000,
}


@pytest.mark.parametrize("tail", HUGE_LENGTHS.values(), ids=HUGE_LENGTHS)
def test_msgpack_of_huge_lengths(refused, tail):
    refused(b"\x81\xa6params" + tail + bytes(16))


# folders


@pytest.mark.parametrize(
    "place", ["../../etc/passwd", "/etc/passwd", "..\\x", "..", "", "a\0b", "model.safetensors.index.json"]
)
def test_an_index_that_leads_elsewhere(refused, place):
    index = json.dumps({"weight_map": {"w": place}}).encode()
    assert "isn't the name of a file of weights beside it" in refused(index, "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}, "2 of 2 parts are missing: model-1"),
        ({"weight_map": {"w": 3}}, "isn't an index"),
        ({"weight_map": ["model-1.safetensors"]}, "isn't an index"),
        ({"weights": {}}, "isn't an index"),
        ([1], "isn't an index"),
    ],
)
def test_an_index_of_nothing(refused, index, said):
    assert said in refused(json.dumps(index).encode(), "model.safetensors.index.json")
    assert "isn't an index" in refused(b'{"a":' + b"[" * 200_000, "model.safetensors.index.json")


@pytest.mark.parametrize("listed", [["a"], ["a", "b", "c"], ["a", "c"]])
def test_an_index_that_lists_other_arrays(refused, tmp_path, listed):
    files.write(tmp_path / "part.safetensors", {"a": WEIGHT, "b": WEIGHT})
    index = {"weight_map": dict.fromkeys(listed, "part.safetensors")}
    assert "hasn't the arrays that are listed" in refused(json.dumps(index).encode(), "model.safetensors.index.json")


def test_an_orbax_folder_that_claims_terabytes(tmp_path):
    v0.PyTreeCheckpointer(use_ocdbt=False).save(tmp_path / "a", {"w": WEIGHT})
    np.testing.assert_array_equal(files.read(tmp_path / "a")["w"], WEIGHT)
    [header] = (tmp_path / "a").rglob(".zarray")
    header.write_text(json.dumps(json.loads(header.read_text()) | {"shape": [10**6, 10**6]}))
    with pytest.raises(WeightsError, match="would take 4,000,000,000,000 bytes"):
        files.read(tmp_path / "a")


@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_a_damaged_orbax_folder(tmp_path, damage):
    ocp.save(tmp_path / "a", {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)})
    for path in (tmp_path / "a").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10]) if damage == "truncate" else path.unlink()
    with pytest.raises(WeightsError, match="isn't an orbax checkpoint that can be used"):
        files.read(tmp_path / "a")
