"""
The registry client: the only HTTP in this package.
"""

from ullage.registry.client import FetchedHead, FetchedManifest, RegistryClient, RegistryRepo
from ullage.registry.stream import BlobStream

__all__ = ["BlobStream", "FetchedHead", "FetchedManifest", "RegistryClient", "RegistryRepo"]
