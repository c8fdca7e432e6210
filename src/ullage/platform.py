"""
Platforms: what an image runs on.

Parsing and normalisation are those of github.com/containerd/platforms; each
method says its counterpart there. What fits what is in `ullage.matcher`.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from ullage.errors import InvalidReference

__all__ = ["ALL_PLATFORMS", "Platform", "platform_choice"]

#: What stands for every platform, where one may be named.
ALL_PLATFORMS = "all"

_HINT = "a platform looks like linux/amd64, linux/arm/v7, arm64 or windows(10.0.17763)/amd64"
#: Characters in a specifier: far more than any has, and little enough to be read at once.
_MAX_LENGTH = 4096

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

# The lists of go/build/syslist.go that containerd carries.
_KNOWN_OS = frozenset(
    {
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
        "zos",
    }
)
_KNOWN_ARCHITECTURES = frozenset(
    {
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "arm64",
        "arm64be",
        "armbe",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "mipsle",
        "ppc",
        "ppc64",
        "ppc64le",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    }
)
_ALIASES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_VARIANTS = {
    "amd64": {"v1": ""},
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
    "arm": {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"},
}
# What uname calls a machine, where Go has another word for it.
_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
_ESCAPES = str.maketrans({"%": "%25", "+": "%2B", "(": "%28", ")": "%29", "/": "%2F"})


@dataclass(frozen=True, slots=True)
class Platform:
    """
    Operating system, architecture and what narrows them.

    >>> str(Platform.parse("linux/arm/7")), Platform.parse("linux/aarch64").architecture
    ('linux/arm/v7', 'arm64')
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, host: Platform | None = None) -> Platform:
        """
        Read a specifier: ``os``, ``architecture``, or ``os/architecture[/variant]``. (Go: ``Parse``)

        The operating system may carry a version and features in parentheses:
        ``windows(10.0.17763+win32k)/amd64``. What is not said is the *host*'s.

        Raises:
            InvalidReference: *text* is no platform.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected a string, got {type(text).__name__}")
        if len(text) > _MAX_LENGTH:
            _refuse(f"a platform specifier is no longer than {_MAX_LENGTH} characters", text)
        if "*" in text:
            _refuse("wildcards not yet supported", text)
        parts = text.split("/", 3)
        system, version, features = _parse_os(parts[0], text)
        if len(parts) > 3 or not all(_COMPONENT.fullmatch(part) for part in parts[1:]):
            _refuse("cannot parse platform specifier", text)
        if len(parts) == 1:
            return _parse_single(text, cls(system, "", "", version, features), host or cls.of_host())
        architecture, variant = _normalised_architecture(parts[1], parts[2] if len(parts) == 3 else "")
        if len(parts) == 2 and (architecture, variant) == ("arm", "v7"):
            variant = ""
        if len(parts) == 3 and (architecture, variant) == ("arm64", ""):
            variant = "v8"
        return cls(system, architecture, variant, version, features)

    @classmethod
    def of_host(cls) -> Platform:
        """
        The platform of this machine. (Go: ``DefaultSpec``)
        """
        machine = os.uname().machine.lower()
        architecture, variant = _MACHINES.get(machine, (machine, ""))
        return cls(_host_os(), architecture, variant)

    def normalised(self) -> Platform:
        """
        Aliases resolved, features sorted; an empty ``os`` is this machine's. (Go: ``Normalize``)
        """
        architecture, variant = _normalised_architecture(self.architecture, self.variant)
        features = tuple(sorted(set(self.os_features)))
        return Platform(_normalised_os(self.os), architecture, variant, self.os_version, features)

    def __str__(self) -> str:
        """
        Without version and features. (Go: ``Format``)
        """
        return _joined(self.os, self.architecture, self.variant) if self.os else "unknown"

    def format_all(self) -> str:
        """
        With version and features; `parse` reads it back. (Go: ``FormatAll``)
        """
        if not self.os:
            return "unknown"
        features = "".join(f"+{_escaped(feature)}" for feature in sorted(set(self.os_features)) if feature)
        options = _escaped(self.os_version) + features
        system = f"{self.os}({options})" if options else self.os
        return _joined(system, self.architecture, self.variant)


def _parse_os(part: str, text: str) -> tuple[str, str, tuple[str, ...]]:
    match = _OS.fullmatch(part)
    if match is None:
        _refuse("invalid OS component", text)
    version = _unescaped(match[2] or "", text)
    features = (_unescaped(feature, text) for feature in (match[3] or "").split("+") if feature)
    return _normalised_os(match[1]), version, tuple(feature for feature in features if feature)


def _parse_single(text: str, parsed: Platform, host: Platform) -> Platform:
    """
    One word: a known operating system, else a known architecture.
    """
    if parsed.os in _KNOWN_OS:
        variant = host.variant if host.architecture == "arm" and host.variant != "v7" else ""
        return replace(parsed, architecture=host.architecture, variant=variant)
    architecture, variant = _normalised_architecture(text, "")
    if architecture not in _KNOWN_ARCHITECTURES:
        _refuse("unknown operating system or architecture", text)
    return replace(
        parsed,
        os=host.os,
        architecture=architecture,
        variant="" if (architecture, variant) == ("arm", "v7") else variant,
    )


def _normalised_os(name: str) -> str:
    name = _lower(name) or _host_os()
    return "darwin" if name == "macos" else name


def _normalised_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = _lower(architecture), _lower(variant)
    architecture, fixed = _ALIASES.get(architecture, (architecture, None))
    if fixed is not None:
        return architecture, fixed
    return architecture, _VARIANTS.get(architecture, {}).get(variant, variant)


def _lower(text: str) -> str:
    """
    Each character by itself, as Go does it: Python's own looks at its neighbours.
    """
    if text.isascii():
        return text.lower()
    return "".join("i" if character == "\u0130" else character.lower() for character in text)


def _host_os() -> str:
    return "linux" if sys.platform.startswith("linux") else sys.platform


def _joined(*parts: str) -> str:
    """
    Go's ``path.Join``: empty parts are left out and the path is cleaned.
    """
    path = posixpath.normpath("/".join(part for part in parts if part))
    return path[1:] if path.startswith("//") else path


def _escaped(option: str) -> str:
    return option.translate(_ESCAPES)


def _unescaped(option: str, text: str) -> str:
    if _BROKEN_ESCAPE.search(option):
        _refuse("invalid escape in a platform's version or features", text)
    try:
        return unquote_to_bytes(option).decode()
    except UnicodeDecodeError as error:
        raise InvalidReference("invalid escape in a platform", reference=text, hint=_HINT) from error


def platform_choice(platform: str | Platform | None) -> tuple[Platform | None, bool]:
    """
    The platform to choose, None for this machine's; and whether those of all others are wanted, too.
    """
    if platform == ALL_PLATFORMS:
        return None, True
    return Platform.parse(platform) if isinstance(platform, str) else platform, False


def _refuse(message: str, text: str) -> NoReturn:
    shown = ascii(text) if len(text) <= 80 else f"{text[:77]!a}..."
    raise InvalidReference(f"{message}: {shown}", reference=text, hint=_HINT)
