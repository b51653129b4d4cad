"""Several processes as one job: how they find each other, and how they part.

JAX's own runtime joins them (`jax.distributed`): on Slurm, Cloud TPUs, Kubernetes and Open MPI
by what it finds in the environment, elsewhere by three flags. It also finds out when one is
lost, but by heartbeats, after a minute, and then aborts with a page of text; `rfm.cli.lifeline`
knows at once, and says it in a line.
"""

import argparse
import contextlib
import glob
import importlib.util
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import jax
from jax.errors import JaxRuntimeError

from rfm import processes
from rfm.cli.environment import check_devices
from rfm.cli.lifeline import Lifeline
from rfm.errors import UserError

LOST = 75
"""Exit status, EX_TEMPFAIL of sysexits.h: nothing is wrong, but all must start again."""

_WAIT_SECONDS = 300.0
_HEARTBEAT_SECONDS = 60


class Outcome(NamedTuple):
    """How work ended.

    Attributes:
      status: the exit status.
      agreed: all processes know, and end with the same.
    """

    status: int
    agreed: bool = True


def run(arguments: argparse.Namespace, work: Callable[[], Outcome]) -> int:
    """`work()` as one process of the job that flags or environment tell of, if there is one.

    Returns:
      The exit status of `work`. In a job this call does not return if this process fails alone,
      or if another one has ended before its time: this one ends, too, with its status if it
      could still say it, else with `LOST`.

    Raises:
      UserError: the flags contradict each other.
    """
    host = _join(arguments)
    if host is None:
        return work().status
    lifeline = _lifeline(host)
    try:
        outcome = work()
    except Exception as error:
        if isinstance(error, JaxRuntimeError):
            time.sleep(1.0)  # another process may be lost: then the lifeline ends this one
        traceback.print_exc()
        outcome = Outcome(1, agreed=False)
    if not outcome.agreed:
        if lifeline is not None:
            lifeline.fail(outcome.status)
        _end(outcome.status)
    if lifeline is not None:
        lifeline.part()
    jax.distributed.shutdown()
    return outcome.status


def same(what: str, value: Callable[[], str]) -> None:
    """All processes must have the same `value`, which is made only if there are several.

    Raises:
      UserError: this one has another than the first.
    """
    if processes.count() > 1 and processes.by_first(value) != value():
        raise UserError(f"this process has another {what} than process 0; give all the same")


def say(line: str, *, told: bool = False) -> None:
    """A line for the user on stderr; one that all processes have is printed by the first."""
    if processes.is_first():
        print(f"rfm: {line}", file=sys.stderr)
    elif not told:
        print(f"rfm, process {processes.number()}: {line}", file=sys.stderr)


def _join(arguments: argparse.Namespace) -> str | None:
    """Joins the job, if there is one; the host of the first process."""
    given = [getattr(arguments, name, None) for name in ("coordinator", "processes", "process")]
    wanted = getattr(arguments, "distributed", "off")
    coordinator, count, number = given
    if given != [None, None, None]:
        _check(coordinator, count, number, wanted)
        # Where JAX looks for a cluster, it may hide GPUs.
        method = "deactivate"
    elif wanted == "on" or (wanted == "auto" and _in_cluster()):
        method = None
    else:
        return None
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    with _patience(coordinator or "the address that the cluster gives"):
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                number,
                cluster_detection_method=method,
                initialization_timeout=int(_WAIT_SECONDS) + 60,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
            )
        except (ValueError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            _refuse(
                f"--distributed: the processes cannot join ({reason}); give --coordinator"
                " HOST:PORT --processes N --process I, or --distributed off"
            )
    try:
        check_devices()
    except UserError as error:
        _refuse(str(error))
    if processes.count() == 1:
        return None
    if len(jax.devices()) != processes.count() * jax.local_device_count():
        _refuse(
            f"{len(jax.devices())} devices of {processes.count()} processes, of which this one has"
            f" {jax.local_device_count()}: all must have the same number (on CPU, XLA_FLAGS="
            "--xla_force_host_platform_device_count=N)"
        )
    address = coordinator or _address()
    return address.rpartition(":")[0].strip("[]")


def _refuse(line: str) -> NoReturn:
    """Ends this process where JAX cannot be asked any more which one it is."""
    print(f"rfm: {line}", file=sys.stderr)
    _end(2)


def _check(coordinator: str | None, count: int | None, number: int | None, wanted: str) -> None:
    if coordinator is None or count is None or number is None:
        raise UserError("--coordinator, --processes and --process belong together: give all three")
    if wanted == "off":
        raise UserError("--distributed off contradicts --coordinator; leave one of them out")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator must be HOST:PORT of process 0, got {coordinator!r}")
    if not 0 <= number < count:
        raise UserError(
            f"--process must be from 0 to --processes - 1, got {number} of {count} processes"
        )


def _in_cluster() -> bool:
    """Is this one of several processes, or on a TPU, by signs that cost nothing to look for?"""
    environment = os.environ
    on_slurm = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"}
    if on_slurm <= environment.keys():
        # A shell within an allocation is a step of one task.
        return int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return True
    if "KUBERNETES_SERVICE_HOST" in environment:
        indexed = "JOB_COMPLETION_INDEX" in environment and not hosts
        return indexed and importlib.util.find_spec("kubernetes") is not None
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None and not hosts


def _address() -> str:
    """What JAX found; it has no public name."""
    from jax._src import distributed

    return str(distributed.global_state.coordinator_address)


@contextlib.contextmanager
def _patience(address: str) -> Iterator[None]:
    """Says what is waited for, and ends the process before JAX would abort it."""
    come = threading.Event()

    def watch() -> None:
        if not come.wait(10.0):
            print(f"rfm: waiting for the other processes at {address}", file=sys.stderr)
            if not come.wait(_WAIT_SECONDS):
                print(
                    f"rfm: not all processes came to {address} within {_WAIT_SECONDS:.0f} s:"
                    " start all of them, with the same --coordinator and --processes",
                    file=sys.stderr,
                )
                _end(LOST)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        come.set()


def _lifeline(host: str) -> Lifeline | None:
    def lost(number: int, status: int | None) -> None:
        which = f"process {number}" if number else "process 0, or one that it has lost,"
        line = f"{which} of this job has ended before its time; its own last lines may say why."
        if status is None:
            line += (
                " Start all processes again with the same command: it goes on from what is saved"
            )
        os.write(2, f"rfm, process {processes.number()}: {line}\n".encode())
        if lifelines:
            lifelines[0].fail(status or LOST)
        _end(status or LOST)

    lifelines: list[Lifeline] = []
    try:
        lifelines.append(Lifeline(host, lost))
        return lifelines[0]
    except OSError as error:
        say(
            f"no connection between the processes but JAX's ({error}): should one be lost, the"
            f" others find out after {_HEARTBEAT_SECONDS} s"
        )
        return None


def _end(status: int) -> NoReturn:
    """At once: what would be waited for does not come."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
