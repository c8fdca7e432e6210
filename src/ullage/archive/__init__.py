"""
Images in and out without a registry: OCI layouts, OCI archives and Docker archives.

Reading is untrusting and verifies nothing: what comes out is asked for, hashed and counted by a pull. Nothing of SQL,
of the store or of the service is known here.
"""

from ullage.archive.files import Storage
from ullage.archive.listed import CONTAINERD_NAME, REF_NAME, Listed, reference_of
from ullage.archive.oci import INDEX, LAYOUT, LAYOUT_FILE
from ullage.archive.outgoing import Destination, Outgoing
from ullage.archive.place import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY, PIPE, Place
from ullage.archive.source import Source, SourceRepo, SourceStream, open_source
from ullage.archive.writing import open_destination

__all__ = [
    "CONTAINERD_NAME",
    "DOCKER_ARCHIVE",
    "INDEX",
    "LAYOUT",
    "LAYOUT_FILE",
    "OCI_ARCHIVE",
    "OCI_DIRECTORY",
    "PIPE",
    "REF_NAME",
    "Destination",
    "Listed",
    "Outgoing",
    "Place",
    "Source",
    "SourceRepo",
    "SourceStream",
    "Storage",
    "open_destination",
    "open_source",
    "reference_of",
]
