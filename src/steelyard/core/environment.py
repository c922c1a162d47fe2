"""Environment variables, all in one file.

``CXX``
    The C++ compiler, with options if need be, for what is compiled while Steelyard runs. Default: ``c++``.
``STEELYARD_CACHE``
    Directory for files that Steelyard makes and can make again. Default: ``steelyard`` in ``XDG_CACHE_HOME``, which is
    ``~/.cache`` if it is unset.
``STEELYARD_NATIVE``
    0 keeps the compiled kernels out of use; 1, the default, uses them where they are installed.
``STEELYARD_…``
    Any other is a setting of ``steelyard serve``, such as ``STEELYARD_PORT``.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from steelyard.core.errors import ParamsError, StorageError

CXX = "CXX"
CACHE = "STEELYARD_CACHE"
XDG_CACHE = "XDG_CACHE_HOME"
NATIVE = "STEELYARD_NATIVE"
_SERVER_PREFIX = "STEELYARD_"


def server_variables() -> dict[str, str]:
    """Return the server's settings in the environment, by their names in lower case without the prefix."""
    return {
        name.removeprefix(_SERVER_PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(_SERVER_PREFIX) and name not in (CACHE, NATIVE)
    }


def compiler_words() -> list[str]:
    """Return the C++ compiler's command, split as a shell would; it need not exist."""
    return shlex.split(os.environ.get(CXX, "")) or ["c++"]


def cache_directory() -> Path:
    """Return the cache directory, absolute; it need not exist.

    An empty variable counts as unset, and so does a relative ``XDG_CACHE_HOME``, as its specification asks.

    Raises:
        StorageError: if nothing says where it is: the variables are unset and the user has no home directory.
    """
    try:
        if own := os.environ.get(CACHE):
            return Path(own).expanduser().absolute()
        shared = Path(os.environ.get(XDG_CACHE, ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "steelyard"
    except RuntimeError as error:
        problem = "there is no home directory to keep a cache in"
        raise StorageError(problem, field=CACHE, remedy="Set it to a directory that can be written") from error


def native_allowed() -> bool:
    """Return whether the compiled extension may be used: ``STEELYARD_NATIVE`` is 1 (the default), not 0.

    Raises:
        ParamsError: if the variable is neither.
    """
    value = os.environ.get(NATIVE, "1") or "1"
    if value not in ("0", "1"):
        raise ParamsError(f"{value!a} is neither 0 nor 1", field=NATIVE, remedy="Set it to 0 to switch it off")
    return value == "1"
