"""An engine and the record beside it: ``model.engine`` is TensorRT's plain plan, ``model.engine.json`` says what it is.

A plan runs on the GPU, TensorRT and JetPack it was built with. On another one TensorRT refuses it in words of its own,
or runs it slowly. So the record is compared with the machine before TensorRT sees the plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg import bundled, doctor
from edgeseg.card import ModelCard
from edgeseg.doctor import Cuda, Host
from edgeseg.errors import BackendError, ModelError
from edgeseg.files import sha256_of, write_text
from edgeseg.trt.library import EngineWarning, load_tensorrt, require_driver
from edgeseg.trt.options import BuildOptions

SCHEMA = 1


class StalePlanError(BackendError):
    """A plan that was built for something else, or is not the one its record describes. Building it again mends it."""


@dataclass(frozen=True)
class Platform:
    """What a plan is built for.

    Attributes:
        tensorrt: version.
        gpu: name of the device.
        compute_capability: of the device, such as "8.7".
        driver: release, where it can be told, and the newest CUDA it runs.
        jetpack: such as "6.2 (L4T 36.4.3)"; None off a Jetson, and where nothing tells it.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    jetpack: str | None


def platform_of(trt: ModuleType, cuda: Cuda, host: Host | None = None) -> Platform:
    """This machine, as far as a plan depends on it. TensorRT builds for and runs on the driver's first device."""
    host = host or Host()
    gpu = cuda.gpus[0]
    runs = f"CUDA {cuda.version[0]}.{cuda.version[1]}"
    release = doctor.driver_release(host)
    return Platform(
        tensorrt=str(trt.__version__),
        gpu=gpu.name,
        compute_capability=gpu.capability,
        driver=f"{release}, {runs}" if release else runs,
        jetpack=doctor.jetpack_release(host),
    )


@dataclass(frozen=True)
class Sidecar:
    """The record of an engine.

    Attributes:
        card: of the model; None for one that edgeseg did not export.
        onnx: name of the file it was built from.
        onnx_sha256, plan_sha256: of that file and of the engine, as hexadecimal text.
        platform: what it was built for.
        options: of the build.
        typing: how the builder was told the precision: "strong", or the flags that it was given.
        precision: ``asked`` by the graph and ``found`` in the engine; see ``edgeseg.trt.inspector``.
        latency_ms: measured percentiles, once ``edgeseg bench`` has measured them.
        metrics: measured scores, as in the card, once they were measured on the engine itself.
        edgeseg: version that built it.
        schema: version of this record.
    """

    card: ModelCard | None
    onnx: str
    onnx_sha256: str
    plan_sha256: str
    platform: Platform
    options: BuildOptions
    typing: str
    precision: Mapping[str, Any]
    latency_ms: Mapping[str, float] | None = None
    metrics: Mapping[str, Any] | None = None
    edgeseg: str | None = None
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: Path) -> Sidecar:
        """A record from JSON text.

        Raises:
            StalePlanError: it is not one. Names ``origin``.
        """
        mend = f"build the engine again, or remove {origin.name} and describe the model by flags"
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise StalePlanError(f"{origin} has schema {data['schema']}, this edgeseg reads {SCHEMA}", mend)
            card = data.pop("card")
            options = data.pop("options")
            profile = options.pop("profile")
            return cls(
                card=None if card is None else ModelCard.from_json(json.dumps(card), origin=f"The card in {origin}"),
                platform=Platform(**data.pop("platform")),
                options=BuildOptions(profile=profile and tuple(map(tuple, profile)), **options),
                **data,
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise StalePlanError(f"{origin} is not the record of an engine ({doctor.one_line(error)})", mend) from error


def sidecar_path(engine: Path) -> Path:
    """Where the record of an engine is."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar | None:
    """The record of an engine, or None for one that edgeseg did not build.

    Raises:
        StalePlanError: what is there is no such record.
        ModelError: it cannot be read.
    """
    path = sidecar_path(engine)
    try:
        return Sidecar.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise StalePlanError(f"{path} is not text", "build the engine again") from error
    except OSError as error:
        raise ModelError(
            f"Cannot read {path} ({error.strerror})", "check the file, or build the engine again"
        ) from error


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write the record of an engine beside it.

    Raises:
        SinkError: it cannot be written.
    """
    write_text(sidecar_path(engine), sidecar.to_json())


def open_plan(engine: Path) -> tuple[bytes, Sidecar | None]:
    """The bytes of an engine that TensorRT can run here, and its record; None for one that edgeseg did not build.

    Nothing of TensorRT is called. The bytes become code on the GPU: open only engines from a place you trust.

    Raises:
        StalePlanError: it was built for another GPU, TensorRT or JetPack, is not the one its record describes, or
            its record is none.
        ModelError: a file cannot be read.
        BackendError: see ``load_tensorrt``.

    Warns:
        EngineWarning: the driver is another one, or the ONNX file beside it is not the one it was built from.
    """
    sidecar = read_sidecar(engine)
    trt = load_tensorrt()
    if sidecar is not None:
        check_platform(engine, sidecar, platform_of(trt, require_driver()))
    try:
        plan = engine.read_bytes()
    except OSError as error:
        raise ModelError(f"Cannot read {engine} ({error.strerror})", "check the path") from error
    if not plan:
        raise StalePlanError(f"{engine} is empty", rebuild_mend(engine, sidecar))
    if sidecar is not None:
        if hashlib.sha256(plan).hexdigest() != sidecar.plan_sha256:
            raise StalePlanError(
                f"{engine} is not the engine that {sidecar_path(engine).name} describes: it is truncated, damaged or "
                "another one",
                f"copy both files again, or {rebuild_mend(engine, sidecar)}",
            )
        _warn_of_another_onnx(engine, sidecar)
    return plan, sidecar


_TOLD_APART = {
    "tensorrt": "TensorRT",
    "gpu": "the GPU",
    "compute_capability": "the compute capability",
    "jetpack": "JetPack",
}


def check_platform(engine: Path, sidecar: Sidecar, here: Platform) -> None:
    """Refuse an engine that was built for something else than ``here``.

    Another driver alone is only told: plans do not depend on it.

    Raises:
        StalePlanError: names every field that differs, and the command that builds the engine again.

    Warns:
        EngineWarning: only the driver differs.
    """
    built = sidecar.platform
    differing = [
        f"{label} was {getattr(built, name)} and is {getattr(here, name)} here"
        for name, label in _TOLD_APART.items()
        # A container does not tell the JetPack it runs on.
        if None not in (getattr(built, name), getattr(here, name)) and getattr(built, name) != getattr(here, name)
    ]
    if differing:
        raise StalePlanError(
            f"{engine} was built for another machine: {'; '.join(differing)}", rebuild_mend(engine, sidecar)
        )
    if built.driver != here.driver:
        warnings.warn(
            f"{engine} was built with another driver: it was {built.driver} and is {here.driver} here. It runs, but "
            f"its speed was measured with the other; {rebuild_mend(engine, sidecar)}",
            EngineWarning,
            stacklevel=3,
        )


def onnx_beside(engine: Path, sidecar: Sidecar | None) -> Path:
    """Where the ONNX file is expected that an engine was built from: beside it, or in the package for a bundled one."""
    beside = engine.with_name(sidecar.onnx) if sidecar else engine.with_suffix(".onnx")
    if sidecar and not beside.is_file() and beside.stem in bundled.names():
        return bundled.resolve(beside.stem)
    return beside


def rebuild_mend(engine: Path, sidecar: Sidecar | None) -> str:
    """What a user does to get an engine that fits this machine."""
    onnx = onnx_beside(engine, sidecar)
    command = f"edgeseg build {shlex.quote(str(onnx))} --out {shlex.quote(str(engine))}"
    if onnx.is_file():
        return f"build it here: {command}, or add --rebuild to this command"
    return f"bring {onnx.name} here and build from it: {command}"


def _warn_of_another_onnx(engine: Path, sidecar: Sidecar) -> None:
    onnx = onnx_beside(engine, sidecar)
    if onnx.is_file() and sha256_of(onnx) != sidecar.onnx_sha256:
        warnings.warn(
            f"{onnx} has changed since {engine} was built from it; {rebuild_mend(engine, sidecar)}",
            EngineWarning,
            stacklevel=3,
        )
