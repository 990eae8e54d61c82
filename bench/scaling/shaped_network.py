"""Two hosts on one machine: network namespaces joined by a link of a given rate and delay.

    python -m bench.scaling.shaped_network --rate 1000 --delay 1 -- COMMAND ...

runs COMMAND on the first host, with the path of a launcher for MPICH's mpiexec in ``SHAPED_LAUNCHER`` and the addresses
of both hosts in ``SHAPED_HOSTS``. It needs root, ``ip``, and ``/dev/net/tun``.

``tc netem`` delays packets where the kernel has it; many kernels of virtual machines do not. The link is a process
instead: it reads the packets of a TUN device on each host, in the pieces of up to 64 KB that the kernel would hand to a
network card, and writes each to the other host when a link of the given rate would have delivered it. Bytes are counted
as on Ethernet, with the headers, the preamble and the gap of every packet that a card would have made of the piece.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import select
import shlex
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.worker import die_with_parent

__all__ = ["HOSTS", "Link", "shaped_network"]

#: Addresses of the two hosts.
HOSTS = ("10.77.0.1", "10.77.0.2")
_NAMESPACES = ("capgpu-a", "capgpu-b")
_DEVICE = "link0"
_MTU = 1500
#: Bytes of each packet on Ethernet besides its IP part: header, checksum, preamble and gap.
_FRAME = 14 + 4 + 8 + 12
#: IP and TCP headers, with time stamps, of each packet but the first that a card makes of a piece.
_HEADERS = 20 + 32
#: Seconds of packets that wait for the link; later ones are dropped, as by a switch.
_QUEUE = 0.05

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04  # checksums, and segmentation of TCP over IPv4 and IPv6
_VNET_HEADER = struct.Struct("<BBHHHH")  # flags, GSO type, header length, GSO size, checksum start and offset
_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True)
class Link:
    """A full-duplex link.

    Attributes
    ----------
    rate : float
        Bits per second in each direction.
    delay : float
        Seconds that each packet takes besides its transmission.
    """

    rate: float
    delay: float

    def seconds(self, piece: bytes) -> float:
        """Return how long the link is occupied by a piece, which begins with its virtio header."""
        size = len(piece) - _VNET_HEADER.size
        gso_size = _VNET_HEADER.unpack_from(piece)[3]
        packets = -(-(size - _HEADERS) // gso_size) if gso_size else 1
        return 8 * (size + _FRAME * packets + _HEADERS * (packets - 1)) / self.rate


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _open_device(namespace: str) -> int:
    """Create a TUN device in a network namespace, and return its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(other, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(device, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER.size))
        fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOADS)
        return device
    finally:
        libc.setns(own, _CLONE_NEWNET)
        os.close(other)
        os.close(own)


def forward(devices: tuple[int, int], link: Link) -> None:
    """Forward packets between two devices until the process is ended."""
    with suppress(OSError):  # not in every container
        # before the ranks, which wait for messages in loops that keep both processors busy
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000)  # ns: waits end in time
    queues: tuple[deque[tuple[float, bytes]], deque[tuple[float, bytes]]] = deque(), deque()
    free_at = [0.0, 0.0]
    while True:
        due = min((queue[0][0] for queue in queues if queue), default=None)
        # select waits for microseconds, epoll for milliseconds
        select.select(devices, (), (), None if due is None else max(due - time.monotonic(), 0.0))
        now = time.monotonic()
        for side, device in enumerate(devices):
            with suppress(BlockingIOError):
                while True:
                    piece = os.read(device, 1 << 17)
                    start = max(free_at[side], now)
                    if start - now <= _QUEUE:
                        free_at[side] = start + link.seconds(piece)
                        queues[side].append((free_at[side] + link.delay, piece))
        now = time.monotonic()
        for side, queue in enumerate(queues):
            while queue and queue[0][0] <= now:
                with suppress(OSError):  # a full device drops the packet
                    os.write(devices[1 - side], queue.popleft()[1])


@contextmanager
def shaped_network(link: Link) -> Iterator[Path]:
    """Join two network namespaces by a link, inside a ``with`` block.

    Parameters
    ----------
    link : Link
        The link.

    Yields
    ------
    pathlib.Path
        A program that runs commands on a host, as ``ssh`` does: ``-launcher-exec`` of MPICH's mpiexec. The first host
        runs on the first processor, the second on the second.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        Without root, ``ip``, or ``/dev/net/tun``.
    """
    with tempfile.TemporaryDirectory(prefix="capgpu-link-") as folder:
        launcher = Path(folder) / "launcher"
        cases = "\n".join(
            f"{address}) namespace={namespace}; processor={index} ;;"
            for index, (address, namespace) in enumerate(zip(HOSTS, _NAMESPACES, strict=True))
        )
        launcher.write_text(
            '#!/bin/sh\n# ssh [-x] HOST COMMAND...\n[ "$1" = -x ] && shift\n'
            f'case "$1" in\n{cases}\n*) exit 255 ;;\nesac\nhost="$1"; shift\n'
            'exec ip netns exec "$namespace" taskset -c "$processor" '
            'unshare --uts sh -c \'hostname "$0"; eval "exec $*"\' "$namespace" "$@"\n'
        )
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        forwarder = None
        devices: list[int] = []
        try:
            for address, namespace in zip(HOSTS, _NAMESPACES, strict=True):
                subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)  # of a killed run
                _run("ip", "netns", "add", namespace)
                devices.append(_open_device(namespace))
                inside = ("ip", "-n", namespace)
                _run(*inside, "addr", "add", f"{address}/24", "dev", _DEVICE)
                _run(*inside, "link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", "1000", "up")
                _run(*inside, "link", "set", "lo", "up")
            forwarder = os.fork()
            if forwarder == 0:
                try:
                    die_with_parent()
                    forward((devices[0], devices[1]), link)
                finally:
                    os._exit(1)
            yield launcher
        finally:
            if forwarder:
                os.kill(forwarder, signal.SIGKILL)
                os.waitpid(forwarder, 0)
            for device in devices:
                os.close(device)
            for namespace in _NAMESPACES:
                subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def main() -> int:
    """Run a command on the first of two hosts; return its exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rate", type=float, default=1000, help="Mb/s in each direction")
    parser.add_argument("--delay", type=float, default=1, help="ms in each direction")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    options = parser.parse_args()
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        parser.error("expected a command")
    with shaped_network(Link(options.rate * 1e6, options.delay / 1e3)) as launcher:
        environment = {**os.environ, "SHAPED_LAUNCHER": str(launcher), "SHAPED_HOSTS": ",".join(HOSTS)}
        return subprocess.run([launcher, HOSTS[0], shlex.join(command)], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
