"""How long JAX compiles: the part of a measurement that the next checkpoint does not pay."""

from typing import Any

import jax


class CompileTime:
    """Counts the seconds of tracing, lowering and compiling while it is entered.

    Attributes:
      seconds: so far; includes reading the persistent cache, which takes little.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "CompileTime":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *error: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/") and event.endswith("_duration"):
            self.seconds += duration_secs
