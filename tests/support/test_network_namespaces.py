"""Hosts of their own on one machine, which the tests of SLURM and of cut links stand on."""

import pathlib
import socket
import subprocess
import sys

import pytest
from network_namespaces import Namespaces, why_unavailable

LISTEN = (
    "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); c, _ = s.accept(); print(c.recv(9))"
)
SEND = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 0.5).sendall(b'hello')"


@pytest.fixture(scope="module", autouse=True)
def _available():
    if reason := why_unavailable():
        pytest.skip(reason)


def state_of_machine() -> tuple:
    links = subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True, check=True).stdout
    hosts = pathlib.Path("/etc/hosts").read_text()
    names = sorted(path.name for path in pathlib.Path("/run/netns").glob("*"))
    return [line.split(": ")[1] for line in links.splitlines()], hosts, names


def test_hosts_reach_each_other_by_name_until_the_link_is_cut():
    before = state_of_machine()
    with Namespaces(2) as hosts, Namespaces(1) as others:
        assert len({*hosts.addresses, *others.addresses, hosts.gateway, others.gateway}) == 5
        assert socket.gethostbyname(hosts.names[1]) == hosts.addresses[1]
        listener = hosts.popen(1, [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
        assert listener.stdout.readline() == "up\n"
        send = hosts.command(0, [sys.executable, "-c", SEND, hosts.names[1]])
        hosts.cut(1)
        assert subprocess.run(send, capture_output=True).returncode
        hosts.restore(1)
        assert subprocess.run(send, timeout=10).returncode == 0
        assert listener.communicate(timeout=10)[0] == "b'hello'\n"
        sleeper = others.popen(0, ["sh", "-c", "echo inside; exec sleep 1000"], stdout=subprocess.PIPE, text=True)
        assert sleeper.stdout.readline() == "inside\n"
    assert sleeper.wait(timeout=10) == -9
    assert state_of_machine() == before


def test_what_a_killed_process_left_is_removed_by_the_next():
    before = state_of_machine()
    code = (
        "import os, signal\nfrom network_namespaces import Namespaces\n"
        "Namespaces(2).__enter__()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = pathlib.Path(__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == -9
    assert state_of_machine() != before
    with Namespaces(1):
        pass
    assert state_of_machine() == before
