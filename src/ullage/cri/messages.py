"""
The messages of CRI and of gRPC's health service, made at run time.

There is no generated code: what protoc generates is bound to the release of protobuf that it was generated for. The
descriptors are in a pool of their own, so that a host may have its own CRI messages beside these.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

__all__ = ["HEALTH", "RUNTIME", "Malformed", "decode", "message"]

RUNTIME: Final = "runtime.v1"
HEALTH: Final = "grpc.health.v1"


class Malformed(ValueError):
    """
    Bytes that are no such message.
    """


def message(name: str) -> Any:  # noqa: ANN401 -- a class that exists at run time only
    """
    The class of a message.

    >>> message("runtime.v1.ImageSpec")(image="alpine").SerializeToString()
    b'\\n\\x06alpine'
    """
    return _class(name)


def decode(name: str, data: bytes) -> Any:  # noqa: ANN401
    """
    Read one message. Fields that we do not know are passed over, as protobuf wants it.

    Raises:
        Malformed: it is none.
    """
    try:
        return _class(name).FromString(data)
    except DecodeError as error:
        raise Malformed(f"malformed {name}: {error}") from error


@cache
def _class(name: str) -> Any:  # noqa: ANN401
    return GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> Any:  # noqa: ANN401
    pool = DescriptorPool()
    raw = files("ullage.cri").joinpath("protos.binpb").read_bytes()
    for each in FileDescriptorSet.FromString(raw).file:
        pool.AddSerializedFile(each.SerializeToString())
    return pool
