"""The reader against hand-encoded files, against the onnx package, and against broken bytes."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from edgeseg import onnx_reader
from edgeseg.card import ModelCard
from edgeseg.errors import ModelError
from edgeseg.onnx_reader import Constant, Node, TensorInfo, card_from_onnx, read_graph, read_onnx
from edgeseg.precision import precision_of

CARD = ModelCard(classes=("road", "sky"), input_size_hw=(4, 6))
FLOAT32, UINT8, INT64, FLOAT16 = 1, 2, 7, 10

# --- protobuf by hand ---------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field: an integer as varint, text and bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    payload = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def value_info(name: str, dtype: int, *axes: int | str) -> bytes:
    dims = b"".join(field(1, field(2 if isinstance(axis, str) else 1, axis)) for axis in axes)
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, dims)))


def initializer(name: str, dtype: int, dims: tuple[int, ...], payload: bytes) -> bytes:
    return b"".join(field(1, dim) for dim in dims) + field(2, dtype) + field(8, name) + field(9, payload)


LENGTH_BELOW_0 = field(1, "length") + field(2, "-5")


def graph(*extra: bytes) -> bytes:
    return b"".join(
        [
            field(1, field(1, "image") + field(2, "x") + field(4, "Conv")),
            field(1, field(4, "DequantizeLinear")),
            field(1, field(4, "Fused") + field(7, "com.microsoft")),
            field(2, "main"),
            field(5, initializer("w", FLOAT32, (2, 3), bytes(24))),
            field(5, initializer("h", FLOAT16, (4,), bytes(8))),
            field(11, value_info("image", UINT8, "N", 4, 6, 3)),
            field(11, value_info("w", FLOAT32, 2, 3)),
            field(12, value_info("logits", FLOAT32, "N", 2, 1, -1)),
            *extra,
        ]
    )


OPSETS = (field(8, field(1, "") + field(2, 17)), field(8, field(1, "com.microsoft") + field(2, 1)))
NOTE = field(14, field(1, "note") + field(2, "hello"))


def model(graph_bytes: bytes | None = None, card: str | None = None) -> bytes:
    parts = [field(1, 8), field(2, "by hand"), field(3, "1.0")]
    parts.append(field(7, graph() if graph_bytes is None else graph_bytes))
    parts += [*OPSETS, NOTE]
    if card is not None:
        parts.append(field(14, field(1, "edgeseg") + field(2, card)))
    return b"".join(parts)


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


# --- what is read -------------------------------------------------------------------------------------------


def test_reads_a_file_made_by_hand(write):
    path = write(model(card=CARD.to_json()))
    info = read_onnx(path)
    assert info.path == path
    assert info.size_bytes == path.stat().st_size
    assert (info.ir_version, info.opset, info.producer) == (8, 17, "by hand 1.0")
    assert info.domains == {"": 17, "com.microsoft": 1}
    assert info.inputs == (TensorInfo("image", "uint8", ("N", 4, 6, 3)),)
    assert info.outputs == (TensorInfo("logits", "float32", ("N", 2, 1, None)),)
    assert info.metadata["note"] == "hello"
    assert info.op_counts == {"Conv": 1, "DequantizeLinear": 1, "com.microsoft::Fused": 1}
    assert info.has_qdq
    assert info.parameters == 10
    assert info.weight_dtypes == {"float32": 6, "float16": 4}
    assert not info.external_data
    assert card_from_onnx(path) == CARD


def test_reads_the_nodes_of_a_file_made_by_hand(write):
    sizes = field(1, 3) + field(2, INT64) + field(8, "sizes") + field(7, varint(4) + varint(-1) + varint(2))
    factor = field(2, FLOAT32) + field(9, struct.pack("<f", 1.5))
    attributes = [
        field(1, "pads") + field(8, 1) + field(8, -2),
        field(1, "strides") + field(8, varint(2) + varint(300)),
        field(1, "group") + field(3, 8),
        field(1, "mode") + field(4, "linear"),
        field(1, "value") + field(5, factor),
        field(1, "alpha") + varint(2 << 3 | 5) + bytes(4),
    ]
    node = field(1, "a") + field(1, "") + field(2, "y") + field(3, "n") + field(4, "Resize")
    between = field(13, value_info("a", FLOAT16, 1, "N"))
    path = write(model(graph(field(1, node + b"".join(field(5, a) for a in attributes)), field(5, sizes), between)))
    found = read_graph(path)
    assert [n.op for n in found.nodes] == ["Conv", "DequantizeLinear", "com.microsoft::Fused", "Resize"]
    assert found.nodes[0] == Node("", "Conv", ("image",), ("x",), {})
    value = Constant("float32", (), (1.5,))
    told = {"pads": (1, -2), "strides": (2, 300), "group": 8, "mode": "linear", "value": value}
    assert found.nodes[-1] == Node("n", "Resize", ("a", ""), ("y",), told)
    assert found.constants["sizes"] == Constant("int64", (3,), (4, -1, 2))
    assert found.constants["w"] == Constant("float32", (2, 3), (0.0,) * 6)
    assert found.tensors["a"] == TensorInfo("a", "float16", (1, "N"))
    assert found.tensors["image"].shape == ("N", 4, 6, 3)


def test_numbers_that_are_cut_are_damage(write):
    cut = field(1, "value") + field(5, field(2, FLOAT32) + field(9, bytes(3)))
    path = write(model(graph(field(1, field(4, "Constant") + field(5, cut)))))
    with pytest.raises(ModelError, match="is damaged: the numbers at byte"):
        read_graph(path)


def test_no_card_is_none(write):
    assert card_from_onnx(write(model())) is None


def test_a_shape_that_is_absent_is_not_a_scalar(write):
    unknown = field(12, field(1, "y") + field(2, field(1, field(1, FLOAT32))))
    outputs = read_onnx(write(model(graph(unknown)))).outputs
    assert outputs[-1] == TensorInfo("y", "float32", (), rank_known=False)


def test_packed_sizes_and_unknown_fields_are_read(write):
    packed = field(1, varint(300) + varint(2)) + field(2, FLOAT32) + field(8, "p") + field(9, bytes(2400))
    unknown = varint(90 << 3 | 5) + bytes(4) + varint(91 << 3 | 1) + bytes(8) + field(99, "later")
    info = read_onnx(write(unknown + model(graph(field(5, packed), unknown)) + unknown))
    assert info.parameters == 610


def test_payloads_are_not_read_into_memory(write):
    path = write(model(graph(field(5, initializer("big", FLOAT32, (6_250_000,), bytes(25_000_000))))))
    tracemalloc.start()
    try:
        assert read_onnx(path).parameters == 6_250_010
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_onnx_is_not_imported():
    code = "import sys, edgeseg.onnx_reader; sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- against the onnx package -------------------------------------------------------------------------------


def assert_agrees_with_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(path, load_external_data=False)
    names = {code: name for name, code in onnx.TensorProto.DataType.items()}
    numpy_names = {"FLOAT": "float32", "DOUBLE": "float64"}

    def dtype(code: int) -> str:
        return numpy_names.get(names[code], names[code].lower())

    def tensors(values):
        out = []
        for value in values:
            kind = value.type.tensor_type
            axes = tuple(getattr(d, d.WhichOneof("value") or "", None) for d in kind.shape.dim)
            out.append(TensorInfo(value.name, dtype(kind.elem_type), axes, kind.HasField("shape")))
        return tuple(out)

    info = read_onnx(path)
    weights = proto.graph.initializer
    initializers = {w.name for w in weights}
    assert info.ir_version == proto.ir_version
    assert info.domains == {o.domain: o.version for o in proto.opset_import}
    assert info.producer == f"{proto.producer_name} {proto.producer_version}".strip()
    assert info.inputs == tensors(v for v in proto.graph.input if v.name not in initializers)
    assert info.outputs == tensors(proto.graph.output)
    assert info.metadata == {p.key: p.value for p in proto.metadata_props}
    assert sum(info.op_counts.values()) == len(proto.graph.node)
    assert {op.rpartition("::")[2] for op in info.op_counts} == {n.op_type for n in proto.graph.node}
    by_dtype: dict[str, int] = {}
    for weight in weights:
        size = 1
        for dim in weight.dims:
            size *= dim
        by_dtype[dtype(weight.data_type)] = by_dtype.get(dtype(weight.data_type), 0) + size
    assert info.weight_dtypes == by_dtype
    assert info.parameters == sum(by_dtype.values())


def build_with_onnx(path: Path, *, external: bool = False, ir_version: int = 8) -> Path:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    numpy = pytest.importorskip("numpy")
    dtypes = ("float32", "float16", "int8", "uint8", "int64", "bool", "float64")
    weights = [numpy_helper.from_array(numpy.ones((3, i + 1), d), f"w_{d}") for i, d in enumerate(dtypes)]
    weights.append(numpy_helper.from_array(numpy.float32(2.0), "scalar"))
    weights.append(helper.make_tensor("typed", onnx.TensorProto.INT4, (3,), [1, 2, 3]))
    weights.append(helper.make_tensor("floats", onnx.TensorProto.FLOAT, (2, 2), [1.0, 2.0, 3.0, 4.0]))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scalar"], ["q"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"], name="höhe"),
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
    ]
    info = helper.make_tensor_value_info
    inputs = [info("x", 1, ["batch", 3, None, 8]), info("w_float32", 1, [3, 1])]
    outputs = [info("y", 1, ["batch", 3, None, 8]), info("mask", 2, None), info("s", 10, [])]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        producer_name="test",
        producer_version="3",
        ir_version=ir_version,
    )
    helper.set_model_props(proto, {"edgeseg": CARD.to_json(), "other": "größe"})
    if external:
        onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        onnx.save(proto, path)
    return path


@pytest.mark.parametrize("ir_version", [3, 8, 10])
def test_agrees_with_onnx_on_a_small_file(tmp_path, ir_version):
    path = build_with_onnx(tmp_path / "m.onnx", ir_version=ir_version)
    assert_agrees_with_onnx(path)
    assert card_from_onnx(path) == CARD
    assert read_onnx(path).has_qdq


def test_agrees_with_onnx_on_its_own_models():
    onnx = pytest.importorskip("onnx")
    models = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
    if not models:
        pytest.skip("this onnx package carries no models")
    for path in models:
        assert_agrees_with_onnx(path)


def test_external_data(tmp_path):
    path = build_with_onnx(tmp_path / "m.onnx", external=True)
    assert_agrees_with_onnx(path)
    assert read_onnx(path).external_data
    beside = tmp_path / "m.onnx.data"
    beside.write_bytes(beside.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is truncated"):
        read_onnx(path)
    beside.unlink()
    with pytest.raises(ModelError, match=r"'m\.onnx\.data', which is not beside it"):
        read_onnx(path)


# --- broken files -------------------------------------------------------------------------------------------


def problem_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    message = str(caught.value)
    assert "Mend: " in message
    assert "\n" not in message
    return caught.value.problem


def test_missing_folder_empty_and_pipe(tmp_path, write):
    assert problem_of(tmp_path / "no.onnx") == f"There is no file {tmp_path / 'no.onnx'}"
    assert problem_of(tmp_path) == f"{tmp_path} is a folder"
    assert problem_of(write(b"")).endswith("is empty")
    os.mkfifo(tmp_path / "pipe")
    assert problem_of(tmp_path / "pipe").endswith("is not a regular file")
    assert problem_of(write(b"x") / "below.onnx").startswith("Cannot read ")
    assert problem_of(Path("a\0b")).startswith("Cannot read ")


def test_unreadable(write, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(onnx_reader, "open", deny, raising=False)
    assert problem_of(write(model())).endswith("may not be read")


@pytest.mark.parametrize(
    "data",
    [
        b"This is a text file named .onnx.\n" * 40,
        b"Beginning with what could be an operator set",
        b"rrr",
        b"<!DOCTYPE html><html>404</html>",
        b"PK\x03\x04" + bytes(100),
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        random.Random(0).randbytes(4096),
        b"\0" * 64,
        b"\xff" * 64,
    ],
)
def test_other_files_are_not_onnx(write, data):
    assert problem_of(write(data)).endswith("is not an ONNX file")


def test_git_lfs_pointer(write):
    data = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    assert problem_of(write(data)).endswith("is a Git LFS pointer, not the model")


def test_every_truncation_is_named(write):
    """Only a cut between the fields after the first operator set leaves a whole model."""
    whole = model()
    complete = {len(whole) - len(NOTE) - len(OPSETS[1]), len(whole) - len(NOTE)}
    for length in set(range(1, len(whole))) - complete:
        assert "is truncated: " in problem_of(write(whole[:length])), length
    for length in complete:
        assert read_onnx(write(whole[:length])).metadata == {}


def test_cut_between_two_fields(write):
    head = field(1, 8) + field(2, "by hand")
    assert problem_of(write(head)).endswith("is truncated: it has no graph")
    assert problem_of(write(head + field(7, graph()))).endswith("is truncated: it names no operator set")
    no_outputs = problem_of(write(model(field(1, field(4, "Conv")))))
    assert no_outputs.endswith("is truncated: its graph has no outputs")


@pytest.mark.parametrize(
    "extra",
    [
        field(5, initializer("w", FLOAT32, (2, 3), bytes(23))),  # payload does not fit the shape
        field(5, initializer("w", FLOAT32, (-1,), b"")),
        field(5, field(1, bytes([1]) * 1000)),  # a thousand axes
        field(5, field(8, b"\xff\xfe")),  # not UTF-8
        field(5, varint(9 << 3 | 2) + varint(1 << 62)),  # a length beyond the tensor
        field(5, field(2, FLOAT32) + field(14, 1)),  # external, with no place
        field(5, field(13, field(1, "location") + field(2, "x")) + field(13, LENGTH_BELOW_0) + field(14, 1)),
        field(1, b""),  # a node without operator
        field(1, 7),  # a number for a node
        field(12, b""),
        field(12, field(1, "y") + field(2, field(1, field(2, field(1, b"") * 100)))),
        varint(1 << 3 | 3),  # a group, which ONNX never uses
        b"\x80" * 11,
    ],
)
def test_damage_inside_the_graph(write, extra):
    assert " is damaged: " in problem_of(write(model(graph(extra))))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "w.bin", "a\0b", "x" * 5000])
def test_external_data_that_is_not_beside(write, location):
    entry = field(13, field(1, "location") + field(2, location))
    tensor = field(1, 4) + field(2, FLOAT32) + field(8, "e") + entry + field(14, 1)
    problem = problem_of(write(model(graph(field(5, tensor)))))
    assert "outside its own folder" in problem or "is not beside it" in problem
    assert len(problem) < 1000


@pytest.mark.parametrize(
    "card",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"classes": ["a"], "input_size_hw": [Infinity, 3]}',
        "[" * 200_000,
        CARD.to_json().replace("logits", "boxes"),
        CARD.to_json().replace('"ignore_id"', '"ignored"'),
    ],
)
def test_broken_cards(write, card):
    path = write(model(card=card))
    read_onnx(path)
    with pytest.raises(ModelError) as caught:
        card_from_onnx(path)
    assert caught.value.problem.startswith(str(path))


def test_deep_nesting_does_not_recurse(write):
    kind = b""
    for _ in range(3000):
        kind = field(4, field(1, kind))
    info = read_onnx(write(model(graph(field(12, field(1, "s") + field(2, kind))))))
    assert info.outputs[-1].dtype == "sequence"


def test_fuzz(write):
    """Truncations and byte flips end in a result or a ModelError, never in anything else."""
    rng = random.Random(7)
    whole = model(card=CARD.to_json())
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(0, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0xFF, 0x80, 0))
        path = write(bytes(data))
        try:
            card_from_onnx(path)
            precision_of(read_graph(path))
            outcomes["read"] += 1
        except ModelError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
