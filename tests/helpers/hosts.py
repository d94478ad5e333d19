"""Hosts on this machine: network namespaces with addresses, joined by a bridge."""

import contextlib
import os
import shutil
import subprocess

import pytest


class Hosts:
    """Addresses, and the words by which a command runs on the host that has one."""

    def __init__(self, count):
        self.name = f"ak{os.getpid() % 100_000}"
        self.addresses = [f"10.213.7.{number + 1}" for number in range(count)]

    def within(self, address):
        number = self.addresses.index(address)
        return ["ip", "netns", "exec", f"{self.name}h{number}"]

    def spaces(self):
        return [self.name, *(f"{self.name}h{n}" for n in range(len(self.addresses)))]

    def make(self):
        bridge = self.name
        for space in self.spaces():
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", bridge, "link", "set", "bridge", "up")
        for number, address in enumerate(self.addresses):
            space, port = f"{self.name}h{number}", f"port{number}"
            peer = ("peer", "name", "eth0", "netns", space)
            _ip("-n", bridge, "link", "add", port, "type", "veth", *peer)
            _ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")


@contextlib.contextmanager
def hosts(count):
    """Yields `Hosts`, or skips where this process may not make them."""
    if not shutil.which("ip"):
        pytest.skip("iproute2 isn't installed")
    made = Hosts(count)
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"may not make network namespaces here: {error.stderr}")
        yield made
    finally:
        for space in made.spaces():
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _ip(*words):
    command = ["ip", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, text=True)
