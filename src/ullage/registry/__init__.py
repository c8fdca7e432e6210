"""
The registry client: the only HTTP in this package.
"""

from ullage.registry.client import RegistryClient
from ullage.registry.credentials import CredentialFiles
from ullage.registry.endpoint import registry_name
from ullage.registry.fetched import FetchedHead, FetchedManifest
from ullage.registry.identity import Credentials, credentials_for
from ullage.registry.repo import RegistryRepo
from ullage.registry.request import Stream
from ullage.registry.stream import BlobStream
from ullage.registry.target import RegistryTarget
from ullage.registry.upload import NoChunks, Upload

__all__ = [
    "BlobStream",
    "CredentialFiles",
    "Credentials",
    "FetchedHead",
    "FetchedManifest",
    "NoChunks",
    "RegistryClient",
    "RegistryRepo",
    "RegistryTarget",
    "Stream",
    "Upload",
    "credentials_for",
    "registry_name",
]
