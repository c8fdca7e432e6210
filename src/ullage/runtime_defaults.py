"""
What every bundle's config has: mounts, namespaces, capabilities, and what of the kernel is hidden.

It is what engines give a container that nobody said more about: enough for the programs in images, and no more of the
host than they need.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CAPABILITIES", "OCI_VERSION", "linux", "mounts", "rlimits", "volume"]

#: The oldest revision that has all that is used here, for the sake of older runtimes.
OCI_VERSION: Final = "1.0.2"

CAPABILITIES: Final = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
_OPEN_FILES: Final = 1024
_NAMESPACES: Final = ("pid", "network", "ipc", "uts", "mount", "cgroup")
#: They tell of the host, or are the host's own hardware and keys.
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
#: They change the host.
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def rlimits() -> list[dict[str, Any]]:
    """
    Limits of the process.
    """
    return [{"type": "RLIMIT_NOFILE", "hard": _OPEN_FILES, "soft": _OPEN_FILES}]


def mounts(*, rootless: bool) -> list[dict[str, Any]]:
    """
    What is mounted over the root filesystem.

    In a user namespace the group of terminals may have no id, cgroups are not ours to mount, and a fresh sysfs may be
    forbidden: the host's is shown instead.
    """
    sysfs = _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro")
    if rootless:
        sysfs = _mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    found = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *terminals, *([] if rootless else ["gid=5"])),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108 -- in the container
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        sysfs,
    ]
    if not rootless:
        found.append(
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")
        )
    return found


def volume(path: str) -> dict[str, Any]:
    """
    An empty place to write to.
    """
    return _mount(path, "tmpfs", "tmpfs", "nosuid", "nodev", "mode=755")


def linux(*, rootless: bool) -> dict[str, Any]:
    """
    Namespaces, and what is hidden or not to be written to.
    """
    namespaces = (*_NAMESPACES, "user") if rootless else _NAMESPACES
    section: dict[str, Any] = {
        "namespaces": [{"type": each} for each in namespaces],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    if not rootless:
        section["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return section


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}
