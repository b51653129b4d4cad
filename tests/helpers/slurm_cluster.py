"""A Slurm cluster of one node, on this machine and for the time of a test.

The daemons are the real ones. They listen on 127.0.0.1 at ports that were free, keep every file in
one folder, and end with the context. There is no accounting (``sacct``); ``squeue`` and ``scontrol
show job`` know the jobs, ended ones included.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "squeue", "srun")
_PACKAGES = "slurmctld slurmd slurm-client munge"
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_LIMIT_S = 30.0  # for each thing that is waited for

# A requeued job waits for `cred_expire` more than a second; 5 is the least, 120 the default.
_SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=1
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4096
PartitionName=main Nodes=ALL Default=YES
"""
# Starts whether the machine has cgroups of version 1, 2 or both; the default plugin does not.
_CGROUP = "CgroupPlugin=cgroup/v1\n"


def missing() -> str | None:
    """What is missing here to run a cluster, in one line with how to get it; None if nothing is."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if not absent:
        return None
    return f"no {', '.join(absent)}: apt-get install --no-install-recommends {_PACKAGES}"


@contextlib.contextmanager
def slurm_cluster(folder: Path, *, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A cluster that runs jobs as the present user until the context ends.

    Args:
      folder: Where configuration, state and logs go. It is made if absent; its path has to be
            short (some 80 characters), since Unix sockets lie in it.
      cpus: How many processors the node says it has; they may be more than the machine's.

    Yields:
        The environment's variables that ``sbatch`` and the other clients need.

    Raises:
        RuntimeError: If a daemon ends or is not ready in time, or, at the end, a job does not stop;
            with the ends of the logs.
    """
    folder = folder.resolve()
    _write_files(folder, _free_ports(2), cpus=cpus)
    munge_socket, variables = folder / "munge.socket", {"SLURM_CONF": f"{folder}/slurm.conf"}
    with contextlib.ExitStack() as stack:
        daemons = _Daemons(stack, folder, {**os.environ, **variables, "PATH": _PATH})
        daemons.start(
            *("munged", "--foreground", "--force", f"--socket={munge_socket}"),
            *(f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")),
        )
        daemons.wait("munged", munge_socket.exists)
        daemons.start("slurmctld", "-D")
        daemons.start("slurmd", "-D")
        daemons.wait("the node", lambda: daemons.output("sinfo", "-h", "-o", "%T") == "idle")
        try:
            yield variables
        finally:
            daemons.output("scancel", "--partition=main")
            unended = ("squeue", "--noheader", "--states=PD,R,S,CG")
            daemons.wait("the end of every job", lambda: not daemons.output(*unended))


class _Daemons:
    """The daemons that run, each in the foreground and with its output in ``folder/NAME.log``."""

    def __init__(
        self, stack: contextlib.ExitStack, folder: Path, environment: dict[str, str]
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start a daemon that ends with the stack."""
        program = shutil.which(name, path=_PATH)
        if program is None:
            raise RuntimeError(f"no {name} here")
        with open(self._folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [program, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        self._stack.callback(_end, process)

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait until something is ready, for a limited time and while every daemon runs."""
        end = time.monotonic() + _LIMIT_S
        while not ready():
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                reason = f"{', '.join(ended)} ended" if ended else f"{_LIMIT_S:g} s went by"
                tails = [
                    f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                    for log in sorted(self._folder.glob("*.log"))
                ]
                raise RuntimeError("\n\n".join([f"waited for {what}, but {reason}", *tails]))
            time.sleep(0.05)

    def output(self, *command: str) -> str:
        """What a command prints, errors included."""
        return subprocess.run(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT_S,
        ).stdout.strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write_files(folder: Path, ports: list[int], *, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = {"slurm.conf": _SLURM, "cgroup.conf": _CGROUP}
    host = socket.gethostname().split(".")[0]
    for name, text in files.items():
        (folder / name).write_text(
            text.format(folder=folder, ports=ports, cpus=cpus, host=host, user=_user())
        )
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.chmod(0o600)
    key.write_bytes(secrets.token_bytes(128))


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
