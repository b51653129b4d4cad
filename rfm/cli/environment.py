"""What must be set before JAX starts its back end."""

import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType

import jax

from rfm.errors import UserError


def arrange() -> None:
    """Sets flags that the user has not set.

    - CPU: one device per core, each with a single thread. With the batch cut over them
      this is faster than one device with threads inside each operation.
    - GPU: deterministic operations, so that a resumed run is the same run.
    - A persistent compilation cache in ``$XDG_CACHE_HOME/rfm`` (``~/.cache/rfm``).
    """
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = {
        "xla_force_host_platform_device_count": str(len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count() or 1),
        "xla_cpu_multi_thread_eigen": "false",
        "xla_gpu_deterministic_ops": "true",
    }
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    if not jax.config.values.get("jax_compilation_cache_dir"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfm" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # Without the cache it compiles again, that is all.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    _quieten_threads()
    # It says that its first start takes a while, on a busy machine, whatever the verb.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def check_devices() -> None:
    """Checks that JAX has something to compute on.

    Raises:
      UserError: it has not.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device with JAX_PLATFORMS={wanted!r}: unset it, or install the extra"
            f" for your device, see the README ({str(error) or 'no back end'})"
        ) from error


def _quieten_threads() -> None:
    """Mutes what Orbax's and TensorStore's threads print when they fail.

    Each failure comes again, as an exception, where its result is waited for: a damaged
    or unwritable checkpoint is to be one line, not pages. Failures of the main thread,
    where all of `rfm` runs, are shown as ever.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            sys.__excepthook__(kind, error, trace)

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.excepthook = show
    sys.unraisablehook = lambda failure: None
    threading.excepthook = lambda failure: None
