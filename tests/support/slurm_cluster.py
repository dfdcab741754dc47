"""A real SLURM on this machine: slurmctld here, and a slurmd in a network namespace for each node. Linux, as root.

    with SlurmCluster(2) as slurm:
        job = slurm.submit("launch/slurm_multi_node.sbatch", "--backbone=...", options=["--nodes=2"], folder=...)
        slurm.wait_for(lambda: slurm.state(job) == "COMPLETED")

Its configuration, keys, sockets, logs and spool lie in a folder of its own, so that another SLURM of the machine stays
as it is; nothing of it is left at the end, also after Ctrl-C. By hand, to try scripts with sbatch and squeue:

    sudo python tests/support/slurm_cluster.py 2     # prints what to export; ends with Ctrl-C or SIGTERM

Debian's packages: slurmctld slurmd slurm-client munge iproute2.
"""

import contextlib
import os
import pathlib
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from network_namespaces import Namespaces
from network_namespaces import why_unavailable as why_no_namespaces
from worker_processes import free_port_range

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
START_SECONDS = 60
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "scancel", "squeue", "srun", "sinfo")
_STOP_SECONDS = 5
_SLURMD_TIMEOUT_SECONDS = 10  # after which a node that does not answer is down

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}({gateway})
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
KillWait=20
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PartitionName=all Nodes=ALL Default=YES MaxTime=1:00:00 DefaultTime=30
"""
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} "
    "CPUs={cpus} RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN\n"
)


def why_unavailable() -> str | None:
    """Returns why SLURM cannot be started here, or `None`."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]}; on Debian: apt-get install {' '.join(PACKAGES)}"
    return why_no_namespaces()


class SlurmCluster:
    """A context manager; see the module.

    Attributes:
      nodes: Names of the nodes, which the machine resolves.
      hosts: Their network namespaces.
    """

    def __init__(self, num_nodes: int, *, cpus_per_node: int = 4, gpus_per_node: int = 2):
        """Prepares; the devices are made up: SLURM counts them and hands them out, and no program finds them."""
        self.hosts = Namespaces(num_nodes)
        self.nodes = self.hosts.names
        self._cpus, self._gpus = cpus_per_node, gpus_per_node
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "SlurmCluster":
        with contextlib.ExitStack() as stack:
            self._folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm_")))
            self._folder.chmod(0o755)
            stack.enter_context(self.hosts)
            stack.callback(self._stop_daemons)
            self._configure()
            self._start_munged()
            self._start("slurmctld", ["slurmctld", "-D"])
            self.wait_for(self._controller_answers, seconds=START_SECONDS)  # a node that calls in vain waits long
            for index in range(len(self.nodes)):
                self.start_node(index)
            self.wait_for(lambda: self._idle_nodes() == len(self.nodes), seconds=START_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    @property
    def environment(self) -> dict[str, str]:
        """What makes sbatch and the others talk to this cluster, and nothing of a job that the tests may run in."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**kept, "SLURM_CONF": str(self._folder / "slurm.conf")}

    def run(self, *command: str, **options: str) -> str:
        """Runs one of SLURM's commands; returns what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, **options)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(
        self, script: str, *arguments: str, folder: pathlib.Path, options: Sequence[str] = (), **variables: str
    ) -> str:
        """Submits a script from `folder`, where its log will lie as JOB.out; returns the job's number.

        Args:
          script: Path of the script.
          *arguments: Of the script.
          folder: Working directory.
          options: Of sbatch.
          **variables: Of the job's environment.
        """
        command = ["sbatch", "--parsable", *options, script, *arguments]
        done = subprocess.run(
            command, env={**self.environment, **variables}, cwd=folder, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """Returns what `scontrol show job` says of a job or of a task of an array."""
        text = self.run("scontrol", "show", "job", "-o", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def state(self, job: str) -> str:
        """Returns e.g. PENDING, RUNNING, COMPLETED, FAILED, CANCELLED."""
        return self.job(job)["JobState"]

    def begin_soon(self, job: str) -> None:
        """Starts a waiting job, a requeued one say, for which SLURM would wait two minutes; one that began is left.

        Not at once: a node refuses to start a job within the second in which it was told to end it.
        """
        try:
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")
        except RuntimeError:
            if self.state(job) == "PENDING":
                raise

    def wait_for(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Waits until `condition()` holds.

        Raises:
          TimeoutError: It does not within `seconds`; with the ends of the daemons' logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.report())
            time.sleep(0.1)

    def start_node(self, index: int) -> None:
        """Starts a node's slurmd."""
        name = self.nodes[index]
        # A node that comes back is a machine that was switched on again: it knows nothing of its jobs.
        shutil.rmtree(self._folder / f"spool.{name}", ignore_errors=True)
        self._start(name, self.hosts.command(index, ["slurmd", "-D", "-N", name]))

    def kill_node(self, index: int) -> None:
        """Ends a node at once, with all that runs on it."""
        self.hosts.kill_processes(index)
        self._daemons.pop(self.nodes[index]).wait()

    def _configure(self) -> None:
        first_port = free_port_range(1 + len(self.nodes))
        host = socket.gethostname()
        text = _CONFIGURATION.format(
            host=host, gateway=self.hosts.gateway, port=first_port, folder=self._folder,
            slurmd_timeout=_SLURMD_TIMEOUT_SECONDS,
        )  # fmt: skip
        for index, (name, address) in enumerate(zip(self.nodes, self.hosts.addresses, strict=True)):
            text += _NODE.format(
                name=name, host=host, address=address, port=first_port + 1 + index, cpus=self._cpus, gpus=self._gpus
            )
        (self._folder / "slurm.conf").write_text(text)
        devices = [self._folder / f"gpu{index}" for index in range(self._gpus)]
        for device in devices:
            os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # what /dev/null is
        (self._folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
        (self._folder / "state").mkdir()

    def _start_munged(self) -> None:
        """Starts munged with a key and a socket of its own."""
        user = pwd.getpwnam("munge")
        folder = self._folder / "munge"
        folder.mkdir()
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o400)
        for path in (folder, folder / "key"):
            os.chown(path, user.pw_uid, user.pw_gid)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        command = ["munged", "--foreground", *(f"--{option}={folder / name}" for option, name in files.items())]
        self._start("munged", command, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        self.wait_for(lambda: (folder / "socket").exists(), seconds=START_SECONDS)

    def _start(self, name: str, command: Sequence[str], **options: object) -> None:
        with (self._folder / f"{name}.output").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the daemons in order
                **options,
            )  # fmt: skip

    def _stop_daemons(self) -> None:
        """Kills all: whatever runs on the nodes first, while nobody can start more."""
        for name in ("slurmctld", *self.nodes, "munged"):
            daemon = self._daemons.pop(name, None)
            if name in self.nodes:
                self.hosts.kill_processes(self.nodes.index(name))
            if daemon is not None:
                daemon.terminate()  # slurmctld then ends the process that runs its scripts
                try:
                    daemon.wait(timeout=_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()

    def _controller_answers(self) -> bool:
        self._check_daemons()
        done = subprocess.run(["scontrol", "ping"], env=self.environment, capture_output=True, text=True, timeout=60)
        return " is UP" in done.stdout

    def _idle_nodes(self) -> int:
        self._check_daemons()
        return self.run("sinfo", "-h", "-N", "-o", "%T").split().count("idle")

    def _check_daemons(self) -> None:
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended: {self.report()}")

    def report(self) -> str:
        """Returns the ends of the daemons' logs."""
        logs = sorted([*self._folder.glob("*.log"), *self._folder.glob("*.output")])
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)


def main() -> None:
    """Keeps a cluster until Ctrl-C or SIGTERM."""
    if reason := why_unavailable():
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with SlurmCluster(int(sys.argv[1]) if len(sys.argv) > 1 else 2) as slurm:
        print(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
