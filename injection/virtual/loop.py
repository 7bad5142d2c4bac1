"""A file system of the lab's own on a loop device, as root: ``python -m injection.virtual.loop SCRATCH PATH MIB COMMAND...``.

In a mount namespace of its own it mounts a fresh ext4 at PATH, starts COMMAND there, and ends with it. The image is a file
without a name and the device detaches itself, so that with the last process of the namespace all of it is gone.

It also freezes the file system, which a user namespace may not: over the unix socket ``SCRATCH/disk`` a connection says
``freeze NAME`` and has it frozen for as long as it stays open, or until another says ``thaw NAME``; ``thaw`` alone means all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from injection import kernel

SOCKET_NAME = "disk"
#: linux/loop.h and linux/fs.h
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
AUTOCLEAR = 4
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
#: `struct loop_config`: descriptor, block size, then `loop_info64` (flags at byte 52 of its 232), 64 reserved bytes.
CONFIG = struct.Struct("=II52xI176x64x")
#: No blocks kept for root, no lazy work that the kernel would do later beside the job.
MAKE = (
    "mkfs.ext4",
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    "-O",
    "^resize_inode",
)
CAP_SYS_ADMIN = 21
ANSWER_S = 5.0


def why_not() -> str:
    """Why there can be no loop device here; empty = there can."""
    caps = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    if os.geteuid() != 0 or not int(caps, 16) >> CAP_SYS_ADMIN & 1:
        return "a loop device needs root"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "there is no /dev/loop-control"
    return "" if shutil.which(MAKE[0]) else f"the program {MAKE[0]} is not installed"


def mount_fresh(image_folder: Path, path: Path, mib: int) -> None:
    """Make image, device and file system, and mount it. Raises OSError, CalledProcessError."""
    image = os.open(image_folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.posix_fallocate(image, 0, mib << 20)
    device = _attach(image)
    try:
        name = f"/dev/loop{os.minor(os.fstat(device).st_rdev)}"
        subprocess.run([*MAKE, name], check=True, capture_output=True, text=True)
        kernel.mount(name, str(path), "ext4")
        with suppress(OSError):
            (path / "lost+found").rmdir()
    finally:
        os.close(device)  # now the mount alone keeps it
        os.close(image)


def _attach(image: int) -> int:
    """A loop device over the image; another program may be faster in taking a free one."""
    with Path("/dev/loop-control").open("rb+", buffering=0) as control:
        while True:
            device = os.open(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, CONFIG.pack(image, 0, AUTOCLEAR))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device


class Freezer:
    """Freezes one file system for as long as somebody who asked for it stays connected."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._askers: dict[socket.socket, bytes] = {}

    def hear(self, connection: socket.socket) -> bool:
        """One line, or the end, of a connection; false when it is over."""
        try:
            words = connection.recv(256).split()
        except OSError:  # reset: it died before it had read an answer
            words = []
        if words[:1] == [b"freeze"]:
            self._askers[connection] = b"".join(words[1:])
            self._switch(FIFREEZE)
            _tell(connection, b"frozen\n")
        else:
            over = [asker for asker, name in self._askers.items() if self._is_over(asker, name, connection, words)]
            for asker in over:
                del self._askers[asker]
            if (over or words == [b"thaw"]) and not self._askers:
                self._switch(FITHAW)
            if words:
                _tell(connection, b"done\n")
        return bool(words)

    def _is_over(self, asker: socket.socket, name: bytes, told_by: socket.socket, words: list[bytes]) -> bool:
        """Whether an asker is done: it has hung up, is named, or all are meant."""
        return asker is told_by if not words else words[1:] in ([], [name])

    def _switch(self, request: int) -> None:
        with suppress(OSError):  # it is so already
            fcntl.ioctl(self._folder, request, 0)


def _tell(connection: socket.socket, word: bytes) -> None:
    with suppress(OSError):  # it is gone; the end of its connection will say so
        connection.sendall(word)


def serve(listener: socket.socket, freezer: Freezer, child: int) -> int:
    """Answer until the child ends; returns its exit code."""
    with selectors.DefaultSelector() as selector:
        pidfd = os.pidfd_open(child)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(pidfd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == pidfd:
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if not freezer.hear(connection):
                    selector.unregister(connection)
                    connection.close()


def thaw(scratch: Path) -> None:
    """Thaw the disk of that scratch, if there is one: by its server, or, where that was killed, by its device.

    The device is mounted once more, for a moment, in a namespace of its own.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(ANSWER_S)
        line.connect(str(scratch / SOCKET_NAME))
        line.sendall(b"thaw\n")
        if line.recv(64):
            return
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if Path(device.read_text().removesuffix(" (deleted)\n")).parent == scratch:
                again = [sys.executable, "-m", "injection.virtual.loop", f"/dev/{device.parts[3]}"]
                subprocess.run(["unshare", "--mount", *again], check=False, capture_output=True)


def _thaw_device(device: str) -> None:
    folder = tempfile.mkdtemp()
    kernel.mount("tmpfs", folder, "tmpfs")  # so that the folder can go while the other mount stands on a path in it
    inner = Path(folder) / "disk"
    inner.mkdir()
    kernel.mount(device, str(inner), "ext4")
    descriptor = os.open(inner, os.O_RDONLY)
    with suppress(OSError):
        fcntl.ioctl(descriptor, FITHAW, 0)


def main(argv: list[str]) -> int:
    """Mount, start, serve."""
    if len(argv) == 1:
        _thaw_device(argv[0])
        return 0
    scratch, path, mib, command = Path(argv[0]), Path(argv[1]), int(argv[2]), argv[3:]
    try:
        mount_fresh(scratch, path, mib)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"the job's disk could not be made: {getattr(error, 'stderr', None) or error}\n")
        return 1
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(scratch / SOCKET_NAME))
    listener.listen(8)
    child = os.fork()
    if child == 0:
        kernel.die_with_parent()
        os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell
    return abs(serve(listener, Freezer(path), child))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
