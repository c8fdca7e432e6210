"""
Platforms: what an image runs on, and which of several fits a host.

Parsing, normalisation, matching and preference are those of
github.com/containerd/platforms; each name here says its counterpart there.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Protocol
from urllib.parse import unquote_to_bytes

from ullage.errors import InvalidReference

__all__ = ["ALL", "Matcher", "Platform", "exact", "only", "only_os", "only_strict"]

_HINT = "a platform looks like linux/amd64, linux/arm/v7, arm64 or windows(10.0.17763)/amd64"
#: Characters in a specifier: far more than any has, and little enough to be read at once.
_MAX_LENGTH = 4096

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")

# The lists of go/build/syslist.go that containerd carries.
_KNOWN_OS = frozenset(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris"
    " windows zos".split()
)
_KNOWN_ARCHITECTURES = frozenset(
    "386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32"
    " mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm".split()
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
            _refuse("a platform specifier is no longer than {_MAX_LENGTH} characters", text)
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


class Matcher(Protocol):
    """
    Says which platforms fit, and which of them fits best. (Go: ``MatchComparer``)
    """

    def match(self, candidate: Platform) -> bool:
        """
        *candidate* fits.
        """
        ...

    def key(self, candidate: Platform) -> tuple[int, ...]:
        """
        What to sort by: the best comes first. Equal keys are equally good.
        """
        ...


def only(platform: Platform) -> Matcher:
    """
    What *platform* can run, its own kind first. (Go: ``Only``)

    amd64 runs lower levels and 386; arm/v7 runs v6 and v5; arm64 runs lower
    revisions and 32-bit arm.
    """
    return _Ordered(tuple(exact(each) for each in _runnable(platform.normalised())))


def only_strict(platform: Platform) -> Matcher:
    """
    *platform* and its other spellings alone. (Go: ``OnlyStrict``)
    """
    return _Ordered((exact(platform.normalised()),))


def only_os(platform: Platform) -> Matcher:
    """
    Any architecture under the same operating system, *platform*'s own first. (Go: ``OnlyOS``)
    """
    return _OnlyOs(platform.normalised())


def exact(platform: Platform) -> Matcher:
    """
    Equality of the normalised forms, features a subset, no preference. (Go: ``NewMatcher``)

    Under Windows the version follows Microsoft's rules of compatibility.
    """
    is_windows = platform.os == "windows"
    return _Exact(platform.normalised(), is_windows, _windows_version(platform.os_version))


@dataclass(frozen=True, slots=True)
class _Exact:
    platform: Platform
    is_windows: bool
    version: tuple[int, int, int]

    def match(self, candidate: Platform) -> bool:
        if self.is_windows and "win32k" in candidate.os_features:
            # It was once not compared, and images carry it for no reason.
            features = list(candidate.os_features)
            features.remove("win32k")
            candidate = replace(candidate, os_features=tuple(features))
        own, other = self.platform, candidate.normalised()
        return (
            (own.os, own.architecture, own.variant) == (other.os, other.architecture, other.variant)
            and (not self.is_windows or _windows_compatible(self.version, candidate.os_version))
            and set(own.os_features).issuperset(other.os_features)
        )

    def key(self, candidate: Platform) -> tuple[int, ...]:
        return (0 if self.match(candidate) else 1,)


@dataclass(frozen=True, slots=True)
class _Ordered:
    matchers: tuple[Matcher, ...]

    def match(self, candidate: Platform) -> bool:
        return any(matcher.match(candidate) for matcher in self.matchers)

    def key(self, candidate: Platform) -> tuple[int, ...]:
        """
        The place of the first that matches, then the more features the better.

        What does not match ranks by what it would be without its features.
        """
        place = self._place(candidate)
        if place < len(self.matchers):
            return place, -len(candidate.os_features)
        return len(self.matchers), self._place(replace(candidate, os_features=()))

    def _place(self, candidate: Platform) -> int:
        places = (place for place, matcher in enumerate(self.matchers) if matcher.match(candidate))
        return next(places, len(self.matchers))


@dataclass(frozen=True, slots=True)
class _OnlyOs:
    platform: Platform

    def match(self, candidate: Platform) -> bool:
        own, other = self.platform, candidate.normalised()
        if own.os != other.os or not set(own.os_features).issuperset(other.os_features):
            return False
        if own.os != "windows":
            return True
        return _windows_compatible(_windows_version(own.os_version), candidate.os_version)

    def key(self, candidate: Platform) -> tuple[int, ...]:
        if not self.match(candidate):
            return (1,)
        return 0, *only_strict(self.platform).key(candidate)


class _All:
    def match(self, candidate: Platform) -> bool:  # noqa: ARG002 - the protocol's signature
        return True

    def key(self, candidate: Platform) -> tuple[int, ...]:  # noqa: ARG002 - the protocol's signature
        return (0,)


#: Matches everything, prefers nothing. (Go: ``All``)
ALL: Final[Matcher] = _All()


def _runnable(platform: Platform) -> list[Platform]:
    """
    What a host of *platform* (normalised) runs, best first.
    """
    if platform.architecture == "amd64":
        lower = [replace(platform, variant=f"v{level}") for level in _below(platform.variant, 1)]
        return [platform, *lower, replace(platform, architecture="386", variant="")]
    if platform.architecture == "arm":
        return [platform, *(replace(platform, variant=f"v{level}") for level in _below(platform.variant, 5))]
    if platform.architecture == "arm64":
        revisions = _arm64_revisions(platform.variant)
        if not revisions:
            return []  # an unknown revision: nobody knows what it runs
        own = [replace(platform, variant=revision) for revision in revisions]
        return own + _runnable(replace(platform, architecture="arm", variant="v8"))
    return [platform]


def _below(variant: str, lowest: int) -> range:
    """
    The levels under *variant*. No machine has a level past 64, and a list must end.
    """
    number = variant.removeprefix("v")
    level = int(number) if _NUMBER.fullmatch(number) else lowest
    return range(min(level, 65) - 1, lowest - 1, -1)


def _arm64_revisions(variant: str) -> list[str]:
    """
    v9.2 runs v9.2, v9.1, v9, and of v8 what is five revisions ahead: v8.7 and below.
    """
    match = re.fullmatch(r"v([89])(?:\.([0-9]))?", variant or "v8")
    if match is None or (match[1], match[2]) in (("9", "8"), ("9", "9")):
        return []
    major, minor = int(match[1]), int(match[2] or 0)
    revisions = [(major, each) for each in range(minor, -1, -1)]
    if major == 9:
        revisions += [(8, each) for each in range(min(minor + 5, 9), -1, -1)]
    return [f"v{major}.{minor}" if minor else f"v{major}" for major, minor in revisions]


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


def _windows_version(text: str) -> tuple[int, int, int]:
    """
    Major, minor and build; zeros where *text* is no such version.
    """
    parts = text.split(".", 3)[:3]
    if len(parts) < 3 or not all(re.fullmatch(r"[0-9]{1,20}", part) for part in parts):
        return 0, 0, 0
    major, minor, build = map(int, parts)
    return (major, minor, build) if major < 2**8 and minor < 2**8 and build < 2**16 else (0, 0, 0)


def _windows_compatible(host: tuple[int, int, int], version: str) -> bool:
    """
    A host before Server 2022 runs its own build alone, a later one whatever came
    since the last long-term release before it.
    """
    if host == (0, 0, 0) or not version:
        return True
    *release, build = _windows_version(version)
    if [*host[:2]] != release:
        return False
    long_term = (20348, 26100)  # Windows Server 2022 and 2025
    if host[2] < long_term[0]:
        return host[2] == build
    oldest = max((each for each in long_term if each < host[2]), default=long_term[0])
    return oldest <= build <= host[2]


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


def _refuse(message: str, text: str) -> NoReturn:
    shown = ascii(text) if len(text) <= 80 else f"{ascii(text[:77])}..."
    raise InvalidReference(f"{message}: {shown}", reference=text, hint=_HINT)
