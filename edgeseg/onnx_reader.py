"""Facts about an ONNX file, read from its bytes: needs neither the onnx package nor an inference engine.

An ONNX file is one protobuf message, ``ModelProto``. Two documents say how to read it:

- the messages and their field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
- the bytes of a field: https://protobuf.dev/programming-guides/encoding/

In short: a message is a row of fields; a field is a key (``number << 3 | kind``) and a value; a value is a
variable-length integer, 4 or 8 fixed bytes, or a length followed by that many bytes (a text, a payload or a
message inside the message). So whatever is not wanted is stepped over by its length. The file is mapped, not
read: of a large model only the pages with names and shapes are ever touched.

The bytes are not trusted. Nothing is allocated by a length they state, and the depth of reading is fixed.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Union

import numpy as np

from edgeseg.card import METADATA_KEY, ModelCard
from edgeseg.errors import ModelError
from edgeseg.files import PathLike, sha256_of

__all__ = [
    "Constant", "Graph", "Node", "OnnxInfo", "TensorInfo", "card_from_onnx", "card_of", "dtype_name", "read_graph",
    "read_onnx", "sha256_of",
]  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph.

    Attributes:
        name: its name in the graph.
        dtype: "uint8", "float32", "float16", "int64" and so on, as numpy names them; "sequence", "map",
            "optional" or "sparse_tensor" where it is no tensor; "undefined" where the file does not say.
        shape: one entry by axis: its size, the name of a dynamic axis, or None where nothing is known.
        rank_known: False where the file gives no shape at all; ``shape`` is then empty, as for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    rank_known: bool = True


@dataclass(frozen=True)
class OnnxInfo:
    """What an ONNX file says about itself.

    Attributes:
        path: the file.
        size_bytes: its size, without weights kept in files beside it.
        ir_version: version of the ONNX format.
        opset: version of the standard operators; 0 if the model imports none.
        domains: opset version by operator domain; the standard one is "".
        producer: name and version of the program that wrote the file, or "".
        inputs: what a caller feeds; initializers, which old files list too, are left out.
        outputs: what a caller gets.
        metadata: the free entries (``metadata_props``), among them the model card.
        op_counts: nodes by operator, most frequent first: "Conv", or "com.microsoft::FusedConv" outside the
            standard domain. Nodes inside the branches of If and Loop are not counted.
        parameters: elements in all initializers. Constant nodes are not counted.
        weight_dtypes: the same elements by dtype, most frequent first.
        external_data: weights lie in files beside this one (they are there, and long enough).
        has_qdq: the graph has QuantizeLinear or DequantizeLinear nodes.
    """

    path: Path
    size_bytes: int
    ir_version: int
    opset: int
    domains: dict[str, int]
    producer: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    op_counts: dict[str, int]
    parameters: int
    weight_dtypes: dict[str, int]
    external_data: bool
    has_qdq: bool


@dataclass(frozen=True)
class Constant:
    """A tensor that the file holds.

    Attributes:
        dtype: as in ``TensorInfo``.
        shape: the size of each axis.
        values: its elements in order, for tensors of up to 64 integers or float32 kept in the file itself, such
            as the sizes of a Resize; None for all others, among them every weight.
    """

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Attributes:
        name: its name, or "" where the writer gave none.
        op: the operator, with its domain as in ``OnnxInfo.op_counts``.
        inputs, outputs: names of tensors; "" stands for an optional one that is left out.
        attributes: integers, texts, tuples of integers and constants by name; other kinds are left out.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """The nodes of an ONNX file, in the order in which the file lists them: each after those it depends on.

    Attributes:
        nodes: those of the graph itself, without the branches of If and Loop.
        constants: initializers by name.
        tensors: what the file says about inputs, outputs and the tensors between the nodes, by name.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    tensors: dict[str, TensorInfo]


def read_onnx(path: PathLike) -> OnnxInfo:
    """The facts in an ONNX file. Takes milliseconds, whatever the size of the weights.

    Raises:
        ModelError: the file is missing, a folder, unreadable, empty, not ONNX, truncated or damaged, or the
            weights that it keeps in another file are missing.
    """
    return _info_of(Path(path), _read(Path(path), _Facts()))


def read_graph(path: PathLike) -> Graph:
    """The nodes of an ONNX file with what the file says about their tensors.

    Raises:
        ModelError: as ``read_onnx``.
    """
    facts = _GraphFacts()
    _read(Path(path), facts)
    tensors = {t.name: t for t in (*facts.between, *facts.inputs, *facts.outputs)}
    return Graph(tuple(facts.nodes), facts.constants, tensors)


def _read(path: Path, facts: _Facts) -> _Facts:
    with _map(path) as data:
        facts.size_bytes = len(data)
        try:
            _read_model(_Span(data, 0, facts.size_bytes), facts)
        except _DamagedError as error:
            raise _explain(path, data[:64], error) from error
    _check_external(path, facts.external)
    return facts


def _info_of(path: Path, facts: _Facts) -> OnnxInfo:
    return OnnxInfo(
        path=path,
        size_bytes=facts.size_bytes,
        ir_version=facts.ir_version,
        opset=facts.domains.get("", 0),
        domains=facts.domains,
        producer=f"{facts.producer_name} {facts.producer_version}".strip(),
        inputs=tuple(t for t in facts.inputs if t.name not in facts.initializers),
        outputs=tuple(facts.outputs),
        metadata=facts.metadata,
        op_counts=dict(facts.ops.most_common()),
        parameters=sum(facts.weights.values()),
        weight_dtypes=dict(facts.weights.most_common()),
        external_data=bool(facts.external),
        has_qdq=any(op.rpartition("::")[2] in _QDQ for op in facts.ops),
    )


def card_from_onnx(path: PathLike) -> ModelCard | None:
    """The model card inside an ONNX file, or None for a model that did not come from edgeseg.

    Raises:
        ModelError: the file cannot be read (see ``read_onnx``), or its card is broken.
    """
    return card_of(read_onnx(path))


def card_of(info: OnnxInfo) -> ModelCard | None:
    """The model card among facts already read, or None if there is none.

    Raises:
        ModelError: the card is broken.
    """
    text = info.metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return ModelCard.from_json(text)
    except ModelError as error:
        raise ModelError(f"{info.path}: {error.problem}", error.mend) from error
    except (OverflowError, RecursionError) as error:  # an infinite size; brackets nested by the thousand
        raise ModelError(f"{info.path}: the card holds what no card can ({error})", _EXPORT_AGAIN) from error


# --- the file -------------------------------------------------------------------------------------------

_COPY_AGAIN = "copy or download it again and compare the sizes, or export the model again"
_EXPORT_AGAIN = "export the model again"
_GIT_LFS_POINTER = b"version https://git-lfs"


def _map(path: Path) -> mmap.mmap:
    """The file as read-only memory, at least one byte long."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is a folder", "give the path of a model file in it")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise ModelError(f"{path} is not a regular file", "save the model to a file first")
        if status.st_size == 0:
            raise ModelError(f"{path} is empty", _COPY_AGAIN)
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}", "check the path and the folder it starts from") from error
    except PermissionError as error:
        raise ModelError(f"{path} may not be read", f"give yourself the right: chmod u+r {path}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"Cannot read {path} ({reason})", "check the path and the disk") from error


def _explain(path: Path, head: bytes, error: _DamagedError) -> ModelError:
    """The error for bytes that do not read as a model: something else, cut short, or damaged."""
    if head.startswith(_GIT_LFS_POINTER):
        return ModelError(f"{path} is a Git LFS pointer, not the model", "run `git lfs pull` where it came from")
    # Writers put the lowest field number first. Without that mark, what failed to read was never ONNX.
    if head[0] != _Model.IR_VERSION << 3 | _VARINT:
        return ModelError(
            f"{path} is not an ONNX file", "give a model that `edgeseg export` wrote, or another ONNX model"
        )
    state = "truncated" if isinstance(error, _CutShortError) else "damaged"
    return ModelError(f"{path} is {state}: {error}", _COPY_AGAIN)


def _check_external(path: Path, external: dict[str, int]) -> None:
    """Check that every file with weights is beside the model and holds at least the bytes asked of it."""
    for location, size in external.items():
        shown = repr(location[:80])
        if os.path.isabs(location) or ".." in PurePath(location).parts:
            raise ModelError(f"{path} keeps weights outside its own folder, in {shown}", _EXPORT_AGAIN)
        beside = path.parent / location
        if not os.path.isfile(beside):
            raise ModelError(
                f"{path} keeps its weights in {shown}, which is not beside it",
                "copy that file into the same folder, or export the model as one file",
            )
        if os.path.getsize(beside) < size:
            raise ModelError(f"{beside}, the weights of {path.name}, is truncated", _COPY_AGAIN)


# --- protobuf's wire format -------------------------------------------------------------------------------

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _DamagedError(Exception):
    """Bytes that are no ``ModelProto``."""


class _CutShortError(_DamagedError):
    """The bytes end before the model does."""


class _Span:
    """Bytes ``start`` to ``stop`` of the file: a message, a text or a payload, not copied."""

    __slots__ = ("data", "start", "stop")  # thousands are made

    def __init__(self, data: mmap.mmap, start: int, stop: int) -> None:
        self.data, self.start, self.stop = data, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __bytes__(self) -> bytes:
        return self.data[self.start : self.stop]

    def text(self) -> str:
        """The bytes as text."""
        try:
            return str(self.data[self.start : self.stop], "utf-8")
        except UnicodeDecodeError as error:
            raise _DamagedError(f"what should be text at byte {self.start} is none") from error

    def fields(self) -> Iterator[tuple[int, int | _Span]]:
        """Number and value of each field: an unsigned integer or a span. Fixed-size values are left out."""
        at = self.start
        while at < self.stop:
            begin = at
            key, at = self._integer(at)
            number, kind = key >> 3, key & 7
            if kind == _VARINT and number:
                value, at = self._integer(at)
                yield number, value
            elif kind == _LENGTH and number:
                length, at = self._integer(at)
                start, at = at, self._step(at, length)
                yield number, _Span(self.data, start, at)
            elif kind in (_FIXED64, _FIXED32) and number:
                at = self._step(at, 8 if kind == _FIXED64 else 4)
            else:
                raise _DamagedError(f"no field starts as byte {begin} does")

    def integers(self) -> Iterator[int]:
        """The unsigned integers of a packed field."""
        at = self.start
        while at < self.stop:
            value, at = self._integer(at)
            yield value

    def _integer(self, at: int) -> tuple[int, int]:
        """The integer at ``at`` (7 bits a byte, lowest first, the top bit says "more") and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at == self.stop:
                raise self._overrun(at, 1)
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise _DamagedError(f"the number before byte {at} has no end")

    def _step(self, at: int, length: int) -> int:
        """``at + length``, if that is still inside this span."""
        if length > self.stop - at:
            raise self._overrun(at, length)
        return at + length

    def _overrun(self, at: int, length: int) -> _DamagedError:
        """The error for a value of ``length`` bytes at ``at`` that does not fit into this span."""
        if self.start == 0:  # only the whole file starts there
            return _CutShortError(f"it ends at byte {self.stop}, but {length} bytes should follow byte {at}")
        return _DamagedError(f"the value at byte {at} is longer than what holds it")


def _int(value: int | _Span) -> int:
    """A value that must be a (signed) integer."""
    if isinstance(value, _Span):
        raise _DamagedError(f"what should be a number at byte {value.start} is none")
    return value - (1 << 64) if value >> 63 else value


def _span(value: int | _Span) -> _Span:
    """A value that must be a message, a text or a payload."""
    if isinstance(value, int):
        raise _DamagedError(f"a number ({value}) stands where a message should")
    return value


def _text(value: int | _Span) -> str:
    return _span(value).text()


# --- ONNX's messages --------------------------------------------------------------------------------------

# Field numbers, by message.


class _Model:
    IR_VERSION, PRODUCER_NAME, PRODUCER_VERSION, GRAPH, OPSET_IMPORT, METADATA_PROPS = 1, 2, 3, 7, 8, 14


class _Graph:
    NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13


class _Node:
    INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7


class _Attribute:
    NAME, INT, TEXT, TENSOR, INTS = 1, 3, 4, 5, 8


class _Tensor:
    DIMS, DATA_TYPE, FLOATS, INT32S, INT64S, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 4, 5, 7, 8, 9, 13, 14
    EXTERNAL = 1


class _Value:
    NAME, TYPE = 1, 2


class _Type:
    TENSOR = 1
    OTHERS = {4: "sequence", 5: "map", 8: "sparse_tensor", 9: "optional"}  # noqa: RUF012


class _TensorType:
    ELEM_TYPE, SHAPE = 1, 2


class _Shape:
    DIM = 1


class _Dim:
    VALUE, PARAM = 1, 2


class _Opset:
    DOMAIN, VERSION = 1, 2


class _Entry:
    KEY, VALUE = 1, 2


# TensorProto.DataType: numpy's name, and the bits of one element (0: no fixed size).
_DTYPES = {
    0: ("undefined", 0), 1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16),
    5: ("int16", 16), 6: ("int32", 32), 7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8),
    10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64), 14: ("complex64", 64),
    15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8), 18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip


def dtype_name(code: int) -> str:
    """numpy's name for a number of ``TensorProto.DataType``."""
    return _DTYPES.get(code, (f"type {code}", 0))[0]


_QDQ = ("QuantizeLinear", "DequantizeLinear")
_MAX_RANK = 64
_MAX_VALUES = 64
_FIRST_IR_VERSION_WITH_OPSETS = 3


@dataclass
class _Facts:
    """What has been gathered so far."""

    size_bytes: int = 0
    ir_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    domains: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    ops: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    external: dict[str, int] = field(default_factory=dict)  # bytes needed by file


@dataclass
class _GraphFacts(_Facts):
    """The same, and the nodes."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    between: list[TensorInfo] = field(default_factory=list)


def _read_model(model: _Span, facts: _Facts) -> None:
    has_graph = False
    for number, value in model.fields():
        if number == _Model.IR_VERSION:
            facts.ir_version = _int(value)
        elif number == _Model.PRODUCER_NAME:
            facts.producer_name = _text(value)
        elif number == _Model.PRODUCER_VERSION:
            facts.producer_version = _text(value)
        elif number == _Model.GRAPH:
            has_graph = True
            _read_graph(_span(value), facts)
        elif number == _Model.OPSET_IMPORT:
            _read_opset(_span(value), facts)
        elif number == _Model.METADATA_PROPS:
            key, text = _read_entry(_span(value))
            facts.metadata[key] = text
    # A file can also break off between two fields. Writers put the opsets right after the graph.
    if facts.ir_version < 1:
        raise _DamagedError("it names no version of ONNX")
    if not has_graph:
        raise _CutShortError("it has no graph")
    if not facts.outputs:
        raise _CutShortError("its graph has no outputs")
    if not facts.domains and facts.ir_version >= _FIRST_IR_VERSION_WITH_OPSETS:
        raise _CutShortError("it names no operator set")


def _read_graph(graph: _Span, facts: _Facts) -> None:
    for number, value in graph.fields():
        if number == _Graph.NODE:
            facts.ops[_read_op(_span(value))] += 1
        elif number == _Graph.INITIALIZER:
            _read_initializer(_span(value), facts)
        elif number == _Graph.INPUT:
            facts.inputs.append(_read_value(_span(value)))
        elif number == _Graph.OUTPUT:
            facts.outputs.append(_read_value(_span(value)))
        if isinstance(facts, _GraphFacts):
            _read_part(number, value, facts)


def _read_part(number: int, value: int | _Span, facts: _GraphFacts) -> None:
    """What of a graph only ``read_graph`` wants."""
    if number == _Graph.NODE:
        facts.nodes.append(_read_node(_span(value)))
    elif number == _Graph.INITIALIZER:
        name, constant = _read_constant(_span(value))
        facts.constants[name] = constant
    elif number == _Graph.VALUE_INFO:
        facts.between.append(_read_value(_span(value)))


def _read_node(node: _Span) -> Node:
    name = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Any] = {}
    for number, value in node.fields():
        if number == _Node.NAME:
            name = _text(value)
        elif number in (_Node.INPUT, _Node.OUTPUT):
            (inputs if number == _Node.INPUT else outputs).append(_text(value))
        elif number == _Node.ATTRIBUTE:
            _read_attribute(_span(value), attributes)
    return Node(name, _read_op(node), tuple(inputs), tuple(outputs), attributes)


def _read_attribute(attribute: _Span, into: dict[str, Any]) -> None:
    name = ""
    content: Any = None
    ints: list[int] = []
    for number, value in attribute.fields():
        if number == _Attribute.NAME:
            name = _text(value)
        elif number == _Attribute.INT:
            content = _int(value)
        elif number == _Attribute.TEXT:
            content = bytes(_span(value)).decode("utf-8", "replace")
        elif number == _Attribute.TENSOR:
            content = _read_constant(_span(value))[1]
        elif number == _Attribute.INTS:
            ints += map(_int, value.integers() if isinstance(value, _Span) else (value,))
    if ints or content is not None:
        into[name] = content if content is not None else tuple(ints)


def _read_constant(tensor: _Span) -> tuple[str, Constant]:
    """Name and shape of a tensor, and its elements where they are few."""
    dims: list[int] = []
    name, dtype, is_external = "", "undefined", False
    payloads: dict[int, _Span] = {}
    numbers: list[float] = []
    for number, value in tensor.fields():
        if number == _Tensor.DIMS:
            _append_dims(dims, value)
        elif number == _Tensor.DATA_TYPE:
            dtype = dtype_name(_int(value))
        elif number == _Tensor.NAME:
            name = _text(value)
        elif number == _Tensor.DATA_LOCATION:
            is_external = _int(value) == _Tensor.EXTERNAL
        elif isinstance(value, _Span):
            payloads[number] = value
        elif number in (_Tensor.INT32S, _Tensor.INT64S):
            numbers.append(_int(value))
    if math.prod(dims) > _MAX_VALUES or is_external:
        return name, Constant(dtype, tuple(dims))
    return name, Constant(dtype, tuple(dims), _values(dtype, payloads) or tuple(numbers) or None)


def _values(dtype: str, payloads: dict[int, _Span]) -> tuple[float, ...]:
    """The elements of a small tensor, or none where they are not integers or float32."""
    if dtype not in ("int32", "int64", "float32"):
        return ()
    for number, payload in payloads.items():
        if number == _Tensor.RAW_DATA or (number == _Tensor.FLOATS and dtype == "float32"):
            if len(payload) % np.dtype(dtype).itemsize:
                raise _DamagedError(f"the numbers at byte {payload.start} are cut")
            return tuple(np.frombuffer(bytes(payload), np.dtype(dtype).newbyteorder("<")).tolist())
        if number in (_Tensor.INT32S, _Tensor.INT64S) and dtype != "float32":
            return tuple(map(_int, payload.integers()))
    return ()


def _read_op(node: _Span) -> str:
    """The operator of a node, with its domain unless that is the standard one."""
    op, domain = "", ""
    for number, value in node.fields():
        if number == _Node.OP_TYPE:
            op = _text(value)
        elif number == _Node.DOMAIN:
            domain = _standard(_text(value))
    if not op:
        raise _DamagedError(f"the node at byte {node.start} names no operator")
    return f"{domain}::{op}" if domain else op


def _read_opset(opset: _Span, facts: _Facts) -> None:
    domain, version = "", 0
    for number, value in opset.fields():
        if number == _Opset.DOMAIN:
            domain = _standard(_text(value))
        elif number == _Opset.VERSION:
            version = _int(value)
    facts.domains[domain] = version


def _standard(domain: str) -> str:
    """The domain, with the two names of the standard one made one."""
    return "" if domain == "ai.onnx" else domain


def _read_entry(entry: _Span) -> tuple[str, str]:
    """Key and value of a ``StringStringEntryProto``."""
    key, text = "", ""
    for number, value in entry.fields():
        if number == _Entry.KEY:
            key = _text(value)
        elif number == _Entry.VALUE:
            text = _text(value)
    return key, text


def _read_initializer(tensor: _Span, facts: _Facts) -> None:
    """Count the elements of a tensor, from its shape: its payload is stepped over."""
    dims: list[int] = []
    where: dict[str, str] = {}
    dtype, payload, is_external = 0, None, False
    for number, value in tensor.fields():
        if number == _Tensor.DIMS:
            _append_dims(dims, value)
        elif number == _Tensor.DATA_TYPE:
            dtype = _int(value)
        elif number == _Tensor.NAME:
            facts.initializers.add(_text(value))
        elif number == _Tensor.RAW_DATA:
            payload = len(_span(value))
        elif number == _Tensor.EXTERNAL_DATA:
            key, text = _read_entry(_span(value))
            where[key] = text
        elif number == _Tensor.DATA_LOCATION:
            is_external = _int(value) == _Tensor.EXTERNAL
    elements = math.prod(dims)
    name, bits = _DTYPES.get(dtype, (f"type {dtype}", 0))
    facts.weights[name] += elements
    if is_external:
        _note_external(where, facts)
    elif payload is not None and bits and payload != (elements * bits + 7) // 8:
        raise _DamagedError(f"the tensor at byte {tensor.start} has {payload} bytes, not those of its shape")


def _append_dims(dims: list[int], value: int | _Span) -> None:
    """Add one size, or the packed sizes that newer writers put in one field."""
    for size in value.integers() if isinstance(value, _Span) else (value,):
        if _int(size) < 0 or len(dims) == _MAX_RANK:
            raise _DamagedError("a tensor has a negative size or too many axes")
        dims.append(size)


def _note_external(where: dict[str, str], facts: _Facts) -> None:
    """Remember which file holds a tensor, and up to which byte."""
    location = where.get("location", "")
    numbers = [where.get(key, "") or "0" for key in ("offset", "length")]
    if not location or not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
        raise _DamagedError("a tensor does not say where its data is")
    facts.external[location] = max(facts.external.get(location, 0), sum(map(int, numbers)))


def _read_value(info: _Span) -> TensorInfo:
    """An input or output (``ValueInfoProto``)."""
    name, dtype, shape = "", "undefined", None
    for number, value in info.fields():
        if number == _Value.NAME:
            name = _text(value)
        elif number == _Value.TYPE:
            dtype, shape = _read_type(_span(value))
    if not name:
        raise _DamagedError(f"the input or output at byte {info.start} has no name")
    return TensorInfo(name, dtype, shape or (), rank_known=shape is not None)


def _read_type(kind: _Span) -> tuple[str, _ShapeTuple | None]:
    dtype, shape = "undefined", None
    for number, value in kind.fields():
        if number in _Type.OTHERS:
            dtype = _Type.OTHERS[number]
        elif number == _Type.TENSOR:
            for inner, detail in _span(value).fields():
                if inner == _TensorType.ELEM_TYPE:
                    dtype = dtype_name(_int(detail))
                elif inner == _TensorType.SHAPE:
                    shape = _read_shape(_span(detail))
    return dtype, shape


def _read_shape(shape: _Span) -> _ShapeTuple:
    axes: list[int | str | None] = []
    for number, value in shape.fields():
        if number == _Shape.DIM:
            if len(axes) == _MAX_RANK:
                raise _DamagedError("a tensor has too many axes")
            axes.append(_read_axis(_span(value)))
    return tuple(axes)


def _read_axis(dim: _Span) -> int | str | None:
    axis: int | str | None = None
    for number, value in dim.fields():
        if number == _Dim.VALUE:
            axis = _int(value)
        elif number == _Dim.PARAM:
            axis = _text(value) or None
    # Some exporters write -1 for "any size".
    return None if isinstance(axis, int) and axis < 0 else axis


_ShapeTuple = tuple[Union[int, str, None], ...]
