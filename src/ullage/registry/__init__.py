"""
The registry client: the only HTTP in this package.
"""

from ullage.registry.client import RegistryClient
from ullage.registry.credentials import CredentialFiles
from ullage.registry.fetched import FetchedHead, FetchedManifest
from ullage.registry.repo import RegistryRepo
from ullage.registry.stream import BlobStream

__all__ = [
    "BlobStream",
    "CredentialFiles",
    "FetchedHead",
    "FetchedManifest",
    "RegistryClient",
    "RegistryRepo",
]
