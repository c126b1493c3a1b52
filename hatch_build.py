"""Compiles the decoder's C form while a wheel is built or edgeseg is installed, where there is a C compiler.

Without one the build goes on: the numpy form gives the same class maps, more slowly.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = "edgeseg/_decode.c", "edgeseg/_decode.so"
# Contraction would round otherwise than numpy.
FLAGS = ["-O3", "-std=gnu99", "-ffp-contract=off", "-fPIC", "-shared"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling exists only while building
    """A wheel with the library is for one platform, and for every Python 3: it does not use Python's C interface."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library to the build; an editable install gets it in the checkout."""
        self._folder = Path(tempfile.mkdtemp())
        built = self._folder / "_decode.so"
        if not self._compile(built):
            return
        if version == "editable":
            # Not written in place: a running edgeseg may have it mapped.
            shutil.copy(built, Path(self.root, f"{LIBRARY}.new"))
            os.replace(Path(self.root, f"{LIBRARY}.new"), Path(self.root, LIBRARY))
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["force_include"][str(built)] = LIBRARY
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the build left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _compile(self, built: Path) -> bool:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        try:
            subprocess.run(
                [*compiler, *FLAGS, "-o", str(built), str(Path(self.root, SOURCE))], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else ""
            self.app.display_warning(f"the decoder stays in numpy, {' '.join(compiler)} failed: {said or error}")
            return False
        return True
