"""
What is in a layout or an archive: images, their names, and the content behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ullage.errors import InvalidReference
from ullage.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ullage.archive.files import Part
    from ullage.digest import Digest
    from ullage.document import Descriptor

__all__ = ["CONTAINERD_NAME", "REF_NAME", "Content", "Listed", "reference_of"]

#: What a descriptor in an ``index.json`` is called: image-spec 1.1, annotations.md, and what containerd adds.
REF_NAME: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One image that a layout or an archive lists: what names it there, and the manifest or index that it is.

    A name is a whole reference (``docker.io/library/app:1``), or a tag alone (``latest``), as the tool that wrote it
    has it.
    """

    descriptor: Descriptor
    names: tuple[str, ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        """
        Those names that are references.
        """
        found = (reference_of(name) for name in self.names)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    def is_called(self, name: str) -> bool:
        """
        Whether *name*, a tag or a reference in whatever form, is one of its names.
        """
        if name in self.names:
            return True
        wanted = reference_of(name)
        return wanted is not None and wanted in self.references


class Content(Protocol):
    """
    A layout or an archive that was opened: what it lists, and its content by digest. Nothing in it is verified.
    """

    where: str

    @property
    def images(self) -> Sequence[Listed]: ...

    def size_of(self, digest: Digest) -> int | None:
        """
        Bytes of a blob; None when it is not there.
        """

    def open(self, digest: Digest, offset: int) -> Part: ...

    def read(self, digest: Digest, *, max_bytes: int) -> bytes | None:
        """
        A small blob, whole; None when it is not there.
        """

    def close(self) -> None: ...


def reference_of(name: str) -> Reference | None:
    """
    The reference that *name* is; None for a tag alone, and for what is none.

    >>> str(reference_of("app:1")), reference_of("latest")
    ('docker.io/library/app:1', None)
    """
    if not any(each in name for each in "/:@"):
        return None
    try:
        return Reference.parse(name)
    except InvalidReference:
        return None
