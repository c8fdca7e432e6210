"""
References: what images are called, as typed and as rows hold them.

The grammar and the defaults are those of github.com/distribution/reference,
which Docker, containerd and kubelet share; each function names its counterpart
there. `Reference.parse` is the one that the store uses.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn

from ullage.digest import Digest
from ullage.errors import InvalidReference
from ullage.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DEFAULT_DOMAIN",
    "DEFAULT_TAG",
    "MAX_PATH_LENGTH",
    "MAX_REFERENCE_LENGTH",
    "ImageSpec",
    "Reference",
    "familiar_match",
    "parse",
    "parse_any",
    "parse_named",
    "parse_normalized",
    "sort",
    "with_name",
]

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
#: Characters in the path; neither the domain nor the tag counts.
MAX_PATH_LENGTH: Final = 255
#: Characters in all. The grammar bounds path and tag, and this the domain: whoever
#: hands in a megabyte is answered before any expression looks at it.
MAX_REFERENCE_LENGTH: Final = 4096

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"

# ASCII classes, and `fullmatch` below: `\w` is Unicode and `$` lets a newline through.
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_NAME = rf"(?:({_DOMAIN})/)?({_PATH})"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_ONE_NAME = re.compile(_NAME)
_ONE_TAG = re.compile(_TAG)
_ONE_DIGEST = re.compile(_DIGEST)
_REFERENCE = re.compile(rf"{_NAME}(?::({_TAG}))?(?:@({_DIGEST}))?")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """
    A checked name: domain and path, with a tag, a digest, both or neither.

    >>> reference = Reference.parse("nginx")
    >>> str(reference), reference.familiar
    ('docker.io/library/nginx:latest', 'nginx:latest')
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """
        The reference that *text* denotes, Docker's defaults applied: what rows hold.

        Without tag and digest the tag is ``latest``; with both, the digest says
        it all and the tag is dropped. (Go: ``ParseDockerRef``, as CRI has it.)

        Raises:
            InvalidReference: *text* is no reference.
        """
        return _parse_docker(_checked(text))

    @property
    def name(self) -> str:
        """
        Domain and path. (Go: ``Named.Name``)
        """
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def familiar_name(self) -> str:
        """
        The short form of the name that people type. (Go: ``FamiliarName``)
        """
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """
        The short form with tag and digest. (Go: ``FamiliarString``)
        """
        return self.familiar_name + self._suffix

    @property
    def is_name_only(self) -> bool:
        """
        There is neither tag nor digest. (Go: ``IsNameOnly``)
        """
        return self.tag is None and self.digest is None

    @property
    def name_only(self) -> Reference:
        """
        The same name without tag and digest. (Go: ``TrimNamed``)
        """
        return Reference(self.domain, self.path)

    def with_tag(self, tag: str) -> Reference:
        """
        The same with another tag; a digest stays. (Go: ``WithTag``)
        """
        if not _ONE_TAG.fullmatch(_checked(tag)):
            _refuse("invalid tag format", tag)
        return replace(self, tag=tag)

    def with_digest(self, digest: str) -> Reference:
        """
        The same with another digest; a tag stays. (Go: ``WithDigest``)
        """
        if not isinstance(digest, Digest):
            if not _ONE_DIGEST.fullmatch(_checked(digest)):
                _refuse("invalid digest format", digest)
            digest = Digest.parse(digest)
        return replace(self, digest=digest)

    def with_default_tag(self) -> Reference:
        """
        The same, tagged ``latest`` if it is a name only. (Go: ``TagNameOnly``)
        """
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def _suffix(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """
    An image as somebody asked for it: it keeps what was typed.

    One that is built by hand with neither tag nor digest means the tag ``latest``.

    >>> spec = ImageSpec.parse("nginx")
    >>> spec.tag, spec.reference(), str(spec.normalised())
    ('latest', 'nginx:latest', 'docker.io/library/nginx:latest')
    """

    image_name: str
    tag: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        for value in (self.image_name, self.tag, self.digest):
            _checked_type(value)

    @classmethod
    def parse(cls, text: str) -> ImageSpec:
        """
        Split *text* where its grammar splits it, and change nothing else.

        Raises:
            InvalidReference: *text* is no reference.
        """
        Reference.parse(text)
        rest, _, digest = text.partition("@")
        # A colon before the last slash belongs to a port or to an IPv6 address.
        parent, slash, last = rest.rpartition("/")
        last, _, tag = last.partition(":")
        if not tag and not digest:
            tag = DEFAULT_TAG
        return cls(parent + slash + last, tag, digest)

    def reference(self) -> str:
        """
        The string that was typed: ``name:tag``, ``name@digest`` or both.
        """
        tag = self.tag or ("" if self.digest else DEFAULT_TAG)
        return self.image_name + (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")

    def normalised(self) -> Reference:
        """
        The reference that rows hold and look-ups compare; a digest wins over a tag.

        Raises:
            InvalidReference: the fields do not make a reference, or one of them
                has in it what belongs to another.
        """
        text = self.reference()
        # Checked alone: ("localhost", tag="5000/evil") would join to a name in another registry.
        if self.tag and not _ONE_TAG.fullmatch(self.tag):
            _refuse("invalid tag format", text)
        reference = _parse_docker(_checked(text))
        if (reference.digest or "") != self.digest or (self.digest and ":" in self._last_component):
            _refuse("invalid reference format: the name has a tag or a digest in it", text)
        return reference

    @property
    def _last_component(self) -> str:
        return self.image_name.rpartition("/")[2]


def parse(text: str) -> Reference | Digest:
    """
    Read *text* by the grammar alone, no defaults. (Go: ``Parse``)

    Raises:
        InvalidReference: *text* is no reference.
    """
    return _parse(_checked(text), typed=text)


def parse_normalized(text: str) -> Reference:
    """
    Read a familiar name and complete its domain and path. (Go: ``ParseNormalizedNamed``)

    Raises:
        InvalidReference: *text* is no reference, or could be taken for an image id.
    """
    if _IDENTIFIER.fullmatch(_checked(text)):
        _refuse(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings", text)
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        _refuse(f"invalid reference format: repository name ({_short(remote)}) must be lowercase", text)
    return _parse(f"{domain}/{remainder}", typed=text)


def parse_named(text: str) -> Reference:
    """
    Read a name that is canonical already. (Go: ``ParseNamed``)

    Raises:
        InvalidReference: *text* is no reference, or not the canonical one.
    """
    reference = parse_normalized(text)
    if str(reference) != text:
        _refuse("repository name must be canonical", text)
    return reference


def parse_any(text: str) -> Reference | Digest:
    """
    Read an image id (64 hex digits), a digest or a familiar name. (Go: ``ParseAnyReference``)

    Raises:
        InvalidReference: *text* is none of them.
    """
    if _IDENTIFIER.fullmatch(_checked(text)):
        return Digest(f"sha256:{text}")
    try:
        return Digest.parse(text)
    except InvalidReference:
        return parse_normalized(text)


def with_name(name: str) -> Reference:
    """
    A reference that is a name only, no defaults. (Go: ``WithName``)

    Raises:
        InvalidReference: *name* is no name.
    """
    match = _ONE_NAME.fullmatch(_checked(name))
    if match is None:
        _refuse("invalid reference format", name, show=True)
    return _named(match[1], match[2], typed=name)


def sort(references: Iterable[str]) -> list[str]:
    """
    Canonical strings, best names first; what does not parse comes last. (Go: ``Sort``)

    Names with tag and digest, with a tag, with a digest, bare names, digests;
    within each, by the string.
    """
    ranked: list[tuple[int, str]] = []
    for text in references:
        try:
            ranked.append(_ranked(parse_any(text)))
        except InvalidReference:
            ranked.append((6, text))
    return [text for _, text in sorted(ranked)]


def familiar_match(pattern: str, reference: Reference | Digest) -> bool:
    """
    The familiar form, with or without tag and digest, fits a shell pattern. (Go: ``FamiliarMatch``)

    Raises:
        InvalidReference: *pattern* is malformed.
    """
    fits = Pattern.parse(_checked(pattern)).matches
    if isinstance(reference, Digest):
        return fits(reference)
    return fits(reference.familiar) or fits(reference.familiar_name)


@functools.lru_cache(maxsize=1024)
def _parse_docker(text: str) -> Reference:
    reference = parse_normalized(text)
    if reference.digest is not None:
        return reference if reference.tag is None else replace(reference, tag=None)
    return reference.with_default_tag()


def _parse(text: str, *, typed: str) -> Reference:
    if not text:
        _refuse("repository name must have at least one component", typed)
    match = _REFERENCE.fullmatch(text)
    if match is None:
        lowered = text.lower()
        if lowered != text and _REFERENCE.fullmatch(lowered):
            _refuse("repository name must be lowercase", typed, show=True)
        _refuse("invalid reference format", typed, show=True)
    domain, path, tag, digest = match.groups()
    named = _named(domain, path, typed=typed)
    if digest is None:
        return named if tag is None else Reference(named.domain, path, tag)
    try:
        return Reference(named.domain, path, tag, Digest.parse(digest))
    except InvalidReference as error:
        raise InvalidReference(error.message, reference=typed) from error


def _named(domain: str | None, path: str, *, typed: str) -> Reference:
    if len(path) > MAX_PATH_LENGTH:
        _refuse(f"repository name must not be more than {MAX_PATH_LENGTH} characters", typed)
    return Reference(domain or "", path)


def _split_domain(text: str) -> tuple[str, str]:
    """
    The domain (the default one where none is named) and the rest.
    """
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + text
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    elif not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        first, rest = DEFAULT_DOMAIN, text
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest


def _ranked(reference: Reference | Digest) -> tuple[int, str]:
    if isinstance(reference, Digest):
        return 5, reference
    if reference.tag is not None:
        return (2 if reference.digest is None else 1), str(reference)
    return (4 if reference.digest is None else 3), str(reference)


def _checked_type(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"expected a string, got {type(text).__name__}")


def _checked(text: str) -> str:
    _checked_type(text)
    if len(text) > MAX_REFERENCE_LENGTH:
        _refuse(f"invalid reference format: longer than {MAX_REFERENCE_LENGTH} characters", text)
    return text


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(message: str, text: str, *, show: bool = False) -> NoReturn:
    raise InvalidReference(f"{message}: {_short(ascii(text))}" if show else message, reference=text)
