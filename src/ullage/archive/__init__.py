"""
Images in and out without a registry: OCI layouts, OCI archives and Docker archives.

Reading is untrusting and verifies nothing: what comes out is asked for, hashed and counted by a pull. Nothing of SQL,
of the store or of the service is known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.exports import names_of

if TYPE_CHECKING:
    from ullage.archive.files import Storage as Storage
    from ullage.archive.listed import CONTAINERD_NAME as CONTAINERD_NAME
    from ullage.archive.listed import REF_NAME as REF_NAME
    from ullage.archive.listed import Listed as Listed
    from ullage.archive.listed import reference_of as reference_of
    from ullage.archive.outgoing import Destination as Destination
    from ullage.archive.outgoing import Outgoing as Outgoing
    from ullage.archive.place import DOCKER_ARCHIVE as DOCKER_ARCHIVE
    from ullage.archive.place import OCI_ARCHIVE as OCI_ARCHIVE
    from ullage.archive.place import OCI_DIRECTORY as OCI_DIRECTORY
    from ullage.archive.place import PIPE as PIPE
    from ullage.archive.place import Place as Place
    from ullage.archive.source import Source as Source
    from ullage.archive.source import SourceRepo as SourceRepo
    from ullage.archive.source import SourceStream as SourceStream
    from ullage.archive.source import open_source as open_source
    from ullage.archive.writing import open_destination as open_destination

__all__, __getattr__ = names_of(
    __name__,
    {
        "files": ("Storage",),
        "listed": ("CONTAINERD_NAME", "Listed", "REF_NAME", "reference_of"),
        "outgoing": ("Destination", "Outgoing"),
        "place": ("DOCKER_ARCHIVE", "OCI_ARCHIVE", "OCI_DIRECTORY", "PIPE", "Place"),
        "source": ("Source", "SourceRepo", "SourceStream", "open_source"),
        "writing": ("open_destination",),
    },
)
