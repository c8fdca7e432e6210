"""
A layout or an archive that is to be written: which kind, and where.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ullage.archive.beside import Beside, Stdout
from ullage.archive.dockerwriter import DockerArchiveWriter
from ullage.archive.ociwriter import OciArchiveWriter, OciDirectoryWriter
from ullage.archive.place import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY, Place

if TYPE_CHECKING:
    from ullage.archive.outgoing import Destination

__all__ = ["open_destination", "settled"]


def open_destination(place: Place) -> Destination:
    """
    What is written at *place*: an OCI archive, where nobody said what, or a layout where there is a directory.

    Call `Destination.finish` when everything is in, or `Destination.discard`.

    Raises:
        InvalidArchive: there is a directory that is no layout, or one of a store.
        ImageError: it cannot be written there.
    """
    transport = settled(place).transport
    if transport == OCI_DIRECTORY:
        return OciDirectoryWriter(place.path)
    out = Stdout() if place.is_pipe else Beside.at(place.path)
    return DockerArchiveWriter(out) if transport == DOCKER_ARCHIVE else OciArchiveWriter(out)


def settled(place: Place) -> Place:
    """
    *place* with a transport.
    """
    if place.transport:
        return place
    is_directory = not place.is_pipe and (place.path.endswith("/") or os.path.isdir(place.path))  # noqa: PTH112
    return Place(OCI_DIRECTORY if is_directory else OCI_ARCHIVE, place.path, place.name)
