"""
Where images are when they are in no registry and no store, as people write it.

    oci:DIR[:TAG]                 an OCI image layout
    oci-archive:FILE[:TAG]        a tar of one
    docker-archive:FILE[:REF]     what ``docker save`` writes, and ``podman save``
    FILE, DIR or -                one of them: it is looked at; ``-`` is a pipe

The transports are those of skopeo and podman, and so is the rule that a path ends at the first colon after the
transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ullage.errors import InvalidReference

__all__ = ["DOCKER_ARCHIVE", "OCI_ARCHIVE", "OCI_DIRECTORY", "PIPE", "Place"]

OCI_DIRECTORY: Final = "oci"
OCI_ARCHIVE: Final = "oci-archive"
DOCKER_ARCHIVE: Final = "docker-archive"
_TRANSPORTS: Final = (OCI_DIRECTORY, OCI_ARCHIVE, DOCKER_ARCHIVE)
#: The path of standard input, or output.
PIPE: Final = "-"


@dataclass(frozen=True, slots=True)
class Place:
    """
    A layout or an archive: its transport ('' where nobody said, and it has to be looked at), its path, and which
    image in it is meant ('' for all of them).
    """

    transport: str
    path: str
    name: str = ""

    @classmethod
    def named(cls, text: str) -> Place | None:
        """
        What *text* says with one of the transports before it; None without one.

        >>> Place.named("oci:images/app:latest")
        Place(transport='oci', path='images/app', name='latest')
        >>> Place.named("ghcr.io/org/app:1") is None
        True

        Raises:
            InvalidReference: there is no path behind the transport.
        """
        transport, colon, rest = text.partition(":")
        if not colon or transport not in _TRANSPORTS:
            return None
        path, _, name = rest.partition(":")
        if not path:
            raise InvalidReference(
                f"no path after {transport}:",
                reference=text,
                hint=f"write {transport}:PATH, or {transport}:PATH:TAG",
            )
        if path == PIPE and transport == OCI_DIRECTORY:
            raise InvalidReference("a pipe is no directory", reference=text, hint="write oci-archive:-")
        return cls(transport, path, name)

    @classmethod
    def parse(cls, text: str) -> Place:
        """
        The same, where *text* may be a path as well: with no transport before it, all of it is one.

        >>> Place.parse("images.tar"), Place.parse("docker-archive:-").path
        (Place(transport='', path='images.tar', name=''), '-')
        """
        if not text:
            raise InvalidReference(
                "no path", reference=text, hint="name a file, a directory, or - for a pipe"
            )
        return cls.named(text) or cls("", text)

    def of(self, transport: str) -> Place:
        """
        The same with a transport that somebody said beside it.

        Raises:
            InvalidReference: there is no such transport, or it has another.
        """
        if (
            transport not in _TRANSPORTS
            or self.transport not in ("", transport)
            or (transport == OCI_DIRECTORY and self.is_pipe)
        ):
            raise InvalidReference(
                f"{self} is not to be had as {transport}",
                reference=str(self),
                hint=f"it is one of {', '.join(_TRANSPORTS)}",
            )
        return Place(transport, self.path, self.name)

    @property
    def is_pipe(self) -> bool:
        return self.path == PIPE

    def __str__(self) -> str:
        return ":".join(each for each in (self.transport, self.path, self.name) if each)
