"""
The runtime's config of a bundle, made of an image's config (OCI runtime specification 1.0, image specification 1.1,
conversion.md).

A pure function of the image's config, of what the caller wants otherwise, and of who the user turned out to be. What is
the same for every container is in `runtime_defaults`.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ullage import runtime_defaults
from ullage.document import object_in, platform_in, strings_in, text_in
from ullage.errors import InvalidManifest, InvalidProcess, UnsupportedContent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ullage.accounts import Account

__all__ = ["BundleOptions", "IdMapping", "Process", "process_of", "runtime_config"]

_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ANNOTATION: Final = "org.opencontainers.image."
#: What sethostname(2) takes.
_HOSTNAME_BYTES: Final = 64
#: Volumes may not be laid over these: they are the runtime's.
_RESERVED: Final = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """
    What a bundle is to have otherwise than its image says; None leaves it as it is.

    Attributes:
        args: replaces the image's ``Cmd``; the entrypoint stays before it.
        entrypoint: replaces the image's ``Entrypoint``, and drops its ``Cmd``.
        env: ``NAME=VALUE`` each, over the image's.
        user: ``USER``, ``UID``, or either with ``:GROUP``; names are the image's.
        working_dir: where the process starts; relative to ``/``.
        terminal: the process gets a terminal.
        read_only: the root filesystem is not to be written to; the image's volumes are, as tmpfs.
        hostname: the container's; the first digits of the image id by default.
    """

    args: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    terminal: bool = False
    read_only: bool = False
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class IdMapping:
    """
    A line of a map of ids: *size* ids from *container_id* on are those from *host_id* on.
    """

    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Process:
    """
    What runs, before its user has been looked up.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str


def process_of(config: Mapping[str, Any], options: BundleOptions) -> Process:
    """
    What an image runs, with what *options* want otherwise. Needs nothing of its layers.

    Raises:
        UnsupportedContent: the image is for another system than Linux.
        InvalidManifest: its config says it in a way that no process can be.
        InvalidProcess: *options* do, or there is nothing to run.
    """
    system = text_in(config, "os")
    if system not in ("", "linux"):
        raise UnsupportedContent(f"the image is for {system!a}: bundles are for linux")
    section = object_in(config, "config") or {}
    entrypoint = _words(strings_in(section, "Entrypoint", "config."), "config.Entrypoint", image=True)
    command = _words(strings_in(section, "Cmd", "config."), "config.Cmd", image=True)
    if options.entrypoint is not None:
        entrypoint, command = _words(options.entrypoint, "process.args", image=False), ()
    if options.args is not None:
        command = _words(options.args, "process.args", image=False)
    args = (*entrypoint, *command)
    if not args or not args[0]:
        raise InvalidProcess(
            "the image says nothing about what to run",
            field="process.args",
            hint="say it: ullage bundle IMAGE DIR -- COMMAND",
        )
    where = options.working_dir
    if where is None:
        where = text_in(section, "WorkingDir", "config.")
        _words((where,), "config.WorkingDir", image=True)
    else:
        _words((where,), "process.cwd", image=False)
    user = text_in(section, "User", "config.") if options.user is None else options.user
    return Process(args, _env(section, options), _absolute(where), user)


def runtime_config(
    config: Mapping[str, Any],
    *,
    process: Process,
    account: Account,
    options: BundleOptions,
    hostname: str,
    mappings: tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]] | None = None,
) -> dict[str, Any]:
    """
    The whole ``config.json``.

    Args:
        process: from `process_of`, with the same *options*.
        account: who its user is.
        hostname: the container's, where *options* name none.
        mappings: of user ids and of group ids, for a container in a user namespace of its own.

    Raises:
        InvalidManifest: labels, ports or volumes that are none.
        InvalidProcess: a hostname that is none, or ids that *mappings* have nothing for.
    """
    if mappings is not None:
        _require_mapped(account, mappings)
    section = object_in(config, "config") or {}
    env = process.env
    if account.home.startswith("/") and _printable(account.home) and not _has(env, "HOME"):
        env = (*env, f"HOME={account.home}")
    capabilities = list(runtime_defaults.CAPABILITIES)
    return {
        "ociVersion": runtime_defaults.OCI_VERSION,
        "process": {
            "terminal": options.terminal,
            "user": {
                "uid": account.uid,
                "gid": account.gid,
                **({"additionalGids": list(account.additional_gids)} if account.additional_gids else {}),
            },
            "args": list(process.args),
            "env": list(env),
            "cwd": process.cwd,
            "capabilities": {
                "bounding": capabilities,
                # A process that is not root has none to begin with; what it runs may still gain those above.
                "effective": capabilities if account.uid == 0 else [],
                "permitted": capabilities if account.uid == 0 else [],
            },
            "rlimits": runtime_defaults.rlimits(),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": options.read_only},
        "hostname": _hostname(hostname if options.hostname is None else options.hostname),
        "mounts": [
            *runtime_defaults.mounts(rootless=mappings is not None),
            *(_volumes(section) if options.read_only else []),
        ],
        "annotations": _annotations(config, section),
        "linux": {
            **runtime_defaults.linux(rootless=mappings is not None),
            **({} if mappings is None else _mapped(mappings)),
        },
    }


# ---------------------------------------------------------------------- the process


def _env(section: Mapping[str, Any], options: BundleOptions) -> tuple[str, ...]:
    """
    The image's variables with those of *options* over them, the last of a name standing where the first stood.
    """
    variables: dict[str, str] = {}
    for field, given, image in (
        ("config.Env", strings_in(section, "Env", "config."), True),
        ("process.env", options.env, False),
    ):
        for each in _words(given, field, image=image):
            name, equals, _ = each.partition("=")
            if not name or not equals:
                _refuse(field, f"no NAME=VALUE: {each[:80]!a}", image=image)
            variables[name] = each
    defaults = [_PATH, "TERM=xterm"] if options.terminal else [_PATH]
    for each in defaults:
        variables.setdefault(each.partition("=")[0], each)
    return tuple(variables.values())


def _has(env: Iterable[str], name: str) -> bool:
    return any(each.startswith(f"{name}=") for each in env)


def _words(words: tuple[str, ...], field: str, *, image: bool) -> tuple[str, ...]:
    """
    Strings that the kernel can take: text, without the end of a string in it.
    """
    for each in words:
        if "\0" in each or not _printable(each):
            _refuse(field, f"a string that no process can have: {each[:80]!a}", image=image)
    return words


def _printable(text: str) -> bool:
    """
    Whether it can be written in JSON so that all readers read the same.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _refuse(field: str, message: str, *, image: bool) -> NoReturn:
    if image:
        raise InvalidManifest(f"{field}: {message}", hint="the image is broken: ask who built it")
    raise InvalidProcess(f"{field}: {message}", field=field)


def _absolute(path: str) -> str:
    """
    A directory as seen from the root, without dots: ``..`` stops there.
    """
    return posixpath.normpath(posixpath.join("/", path)).replace("//", "/")


def _hostname(name: str) -> str:
    if (
        not name.isprintable()
        or " " in name
        or not 0 < len(name.encode("utf-8", "surrogateescape")) <= _HOSTNAME_BYTES
    ):
        raise InvalidProcess(
            f"no hostname: {name[:80]!a}", field="hostname", hint="1 to 64 bytes, without blanks"
        )
    return name


# ---------------------------------------------------------------------- what is around it


def _annotations(config: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, str]:
    """
    What the image says about itself, and its labels, which win.
    """
    platform = platform_in(config)
    said = {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": ",".join(platform.os_features),
        "author": text_in(config, "author"),
        "created": text_in(config, "created"),
        "stopSignal": text_in(section, "StopSignal", "config."),
        "exposedPorts": ",".join(sorted(object_in(section, "ExposedPorts", "config.") or {})),
    }
    annotations = {f"{_ANNOTATION}{name}": value for name, value in said.items() if value}
    for name, value in (object_in(section, "Labels", "config.") or {}).items():
        if not isinstance(value, str):
            raise InvalidManifest("config.Labels: expected strings")
        if not name:
            continue  # the runtime specification forbids it, and it labels nothing
        annotations[name] = value
    return annotations


def _volumes(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    A tmpfs for each volume: where the root cannot be written to, these can.
    """
    mounts = []
    for path in sorted({_absolute(each) for each in object_in(section, "Volumes", "config.") or {}}):
        _words((path,), "config.Volumes", image=True)
        if path == "/" or any(path == each or path.startswith(f"{each}/") for each in _RESERVED):
            raise InvalidManifest(f"config.Volumes: no place for a volume: {path[:80]!a}")
        mounts.append(runtime_defaults.volume(path))
    return mounts


def _mapped(mappings: tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]) -> dict[str, Any]:
    return {
        name: [
            {"containerID": each.container_id, "hostID": each.host_id, "size": each.size} for each in ranges
        ]
        for name, ranges in zip(("uidMappings", "gidMappings"), mappings, strict=True)
    }


def _require_mapped(account: Account, mappings: tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]) -> None:
    for what, ids, ranges in (
        ("user", (account.uid,), mappings[0]),
        ("group", (account.gid, *account.additional_gids), mappings[1]),
    ):
        for number in ids:
            if not any(0 <= number - each.container_id < each.size for each in ranges):
                raise InvalidProcess(
                    f"{what} id {number} is not mapped in a user namespace of yours",
                    field=f"linux.{what[0]}idMappings",
                    hint="give yourself more in /etc/subuid and /etc/subgid, or run as root in it: --user 0:0",
                )
