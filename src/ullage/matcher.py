"""
Matchers: which platforms fit a host, and which of them fits best.

Matching and preference are those of github.com/containerd/platforms; each
function says its counterpart there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from ullage.platform import Platform

__all__ = ["ALL", "Matcher", "exact", "only", "only_os", "only_strict"]

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_BUILD = re.compile(r"[0-9]{1,20}")
# Windows Server 2022 and 2025: later hosts run what was built for them.
_LONG_TERM_BUILDS = (20348, 26100)


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


def _windows_version(text: str) -> tuple[int, int, int]:
    """
    Major, minor and build; zeros where *text* is no such version.
    """
    parts = text.split(".", 3)[:3]
    if len(parts) < 3 or not all(_BUILD.fullmatch(part) for part in parts):
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
    if host[2] < _LONG_TERM_BUILDS[0]:
        return host[2] == build
    oldest = max((each for each in _LONG_TERM_BUILDS if each < host[2]), default=_LONG_TERM_BUILDS[0])
    return oldest <= build <= host[2]
