"""
Which gRPC status an exception is, and with which words.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import grpc

from ullage.cri.messages import Malformed
from ullage.errors import ImageError, RegistryUnavailable, SignatureValidationFailed

__all__ = ["Refusal", "refusal"]

_log = logging.getLogger(__name__)

#: A message travels in a trailer, and all trailers together may take 8 KiB.
_MAX_CHARACTERS: Final = 1500

# kubelet knows these two by how the message of an UNKNOWN begins (cri-api, pkg/errors/errors.go).
_PREFIXES: Final = (
    (RegistryUnavailable, "RegistryUnavailable: "),
    (SignatureValidationFailed, "SignatureValidationFailed: "),
)


class Refusal(NamedTuple):
    """
    What goes over the wire instead of an answer.
    """

    code: grpc.StatusCode
    details: str


def refusal(error: BaseException) -> Refusal:
    """
    The status and the words for any exception.
    """
    if isinstance(error, ImageError):
        prefix = next((words for kind, words in _PREFIXES if isinstance(error, kind)), "")
        return Refusal(grpc.StatusCode[error.code], prefix + _bounded(error.message))
    if isinstance(error, Malformed):
        return Refusal(grpc.StatusCode.INVALID_ARGUMENT, _bounded(str(error)))
    _log.error("internal error", exc_info=error)
    return Refusal(grpc.StatusCode.INTERNAL, f"internal: {type(error).__name__}")


def _bounded(text: str) -> str:
    clean = "".join(each if each.isprintable() else " " for each in text[: _MAX_CHARACTERS + 1])
    return clean if len(clean) <= _MAX_CHARACTERS else clean[: _MAX_CHARACTERS - 1] + "…"
