"""
The registry client: the only HTTP in this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ullage.exports import names_of

if TYPE_CHECKING:
    from ullage.registry.client import RegistryClient as RegistryClient
    from ullage.registry.credentials import CredentialFiles as CredentialFiles
    from ullage.registry.endpoint import registry_name as registry_name
    from ullage.registry.fetched import FetchedHead as FetchedHead
    from ullage.registry.fetched import FetchedManifest as FetchedManifest
    from ullage.registry.identity import Credentials as Credentials
    from ullage.registry.identity import credentials_for as credentials_for
    from ullage.registry.repo import RegistryRepo as RegistryRepo
    from ullage.registry.request import Stream as Stream
    from ullage.registry.stream import BlobStream as BlobStream
    from ullage.registry.tags import TagPage as TagPage
    from ullage.registry.target import RegistryTarget as RegistryTarget
    from ullage.registry.upload import NoChunks as NoChunks
    from ullage.registry.upload import Upload as Upload

__all__, __getattr__ = names_of(
    __name__,
    {
        "client": ("RegistryClient",),
        "credentials": ("CredentialFiles",),
        "endpoint": ("registry_name",),
        "fetched": ("FetchedHead", "FetchedManifest"),
        "identity": ("Credentials", "credentials_for"),
        "repo": ("RegistryRepo",),
        "request": ("Stream",),
        "stream": ("BlobStream",),
        "tags": ("TagPage",),
        "target": ("RegistryTarget",),
        "upload": ("NoChunks", "Upload"),
    },
)
