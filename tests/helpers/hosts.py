"""Simulated hosts: network namespaces on this machine that a bridge connects."""

import contextlib
import os
import shutil
import subprocess

import pytest


class Hosts:
    """Network namespaces, each with an IP address.

    Attributes:
        addresses: IP address of each host.
    """

    def __init__(self, count):
        self.name = f"ak{os.getpid() % 100_000}"
        self.addresses = [f"10.213.7.{number + 1}" for number in range(count)]

    def command_prefix(self, address):
        """Returns the words that run a command on the host with this address."""
        number = self.addresses.index(address)
        return ["ip", "netns", "exec", f"{self.name}h{number}"]

    def namespaces(self):
        """Returns the names of the bridge's namespace and those of the hosts."""
        return [self.name, *(f"{self.name}h{n}" for n in range(len(self.addresses)))]

    def create(self):
        """Creates the namespaces and connects them."""
        bridge = self.name
        for namespace in self.namespaces():
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", bridge, "link", "set", "bridge", "up")
        for number, address in enumerate(self.addresses):
            namespace, port = f"{self.name}h{number}", f"port{number}"
            peer = ("peer", "name", "eth0", "netns", namespace)
            _ip("-n", bridge, "link", "add", port, "type", "veth", *peer)
            _ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")


@contextlib.contextmanager
def hosts(count):
    """Yields `Hosts`. Skips the test if the process may not create namespaces."""
    if not shutil.which("ip"):
        pytest.skip("iproute2 isn't installed")
    network = Hosts(count)
    try:
        try:
            network.create()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be created: {error.stderr}")
        yield network
    finally:
        for namespace in network.namespaces():
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _ip(*words):
    command = ["ip", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, text=True)
