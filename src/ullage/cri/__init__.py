"""
The Kubernetes CRI v1 image service on a Unix socket: gRPC in, `ImageService` calls, status codes out.

It comes with the extra ``ullage[cri]``; only this package knows gRPC and protobuf.
"""

from ullage.cri.server import CriServer, serve
from ullage.cri.settings import CriSettings

__all__ = ["CriServer", "CriSettings", "serve"]
