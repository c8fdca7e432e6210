"""
Words of the OCI specifications: the media types of documents, and the files that make a directory a layout.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DOCKER_LIST", "DOCKER_MANIFEST", "INDEX", "LAYOUT", "LAYOUT_FILE", "OCI_INDEX", "OCI_MANIFEST"]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

#: The file that makes a directory a layout, and what stands in it.
LAYOUT_FILE: Final = "oci-layout"
LAYOUT: Final = b'{"imageLayoutVersion": "1.0.0"}'
INDEX: Final = "index.json"
