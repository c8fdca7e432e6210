"""
JSON documents from outside: read within limits, field by field.

Go's decoder, with which the field reads them, takes a missing field and a null
as the empty value, and so do we. It lets through what no honest writer makes,
and there we are stricter: a key that comes twice, bytes that are not UTF-8,
half a surrogate pair, an infinite number.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ullage.digest import CONTENT_ALGORITHMS, REFERENCE_ALGORITHMS, Digest
from ullage.errors import InvalidManifest, InvalidReference, UnsupportedContent
from ullage.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_CONTENT_BYTES",
    "MAX_DOCUMENT_BYTES",
    "Descriptor",
    "annotations_in",
    "descriptor_in",
    "descriptors_in",
    "digest_in",
    "list_in",
    "object_in",
    "platform_in",
    "read_list",
    "read_object",
    "strings_in",
    "text_in",
]

#: Bytes of a manifest, an index or a config. Registries refuse larger ones too.
MAX_DOCUMENT_BYTES: Final = 4 * 1024**2
#: Bytes that a descriptor may promise: 1 PiB.
MAX_CONTENT_BYTES: Final = 2**50

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """
    What names content: media type, digest and size (OCI image specification 1.1, descriptor.md).

    The digest is well formed; one of an algorithm that we cannot verify raises
    `UnsupportedContent` where its content is needed (`require_supported`).
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    platform: Platform | None = None
    artifact_type: str = ""
    data: bytes | None = field(default=None, repr=False)

    def require_supported(self) -> None:
        """
        Raises:
            UnsupportedContent: the digest is of an algorithm that is not content's.
        """
        if self.digest.algorithm not in CONTENT_ALGORITHMS:
            raise UnsupportedContent(
                f"unsupported digest algorithm for content: {_shown(self.digest.algorithm)}",
                media_type=self.media_type,
                hint="content is named by sha256 or sha512",
            )


def read_object(raw: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """
    The JSON object that *raw* is.

    Raises:
        InvalidManifest: it is too large, no JSON, no object, or none that two
            readers would understand alike.
    """
    value = _read(raw, max_bytes)
    if not isinstance(value, dict):
        raise InvalidManifest(f"document: expected an object, got {_kind(value)}")
    return value


def read_list(raw: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> list[Any]:
    """
    The JSON list that *raw* is. Raises as `read_object` does.
    """
    value = _read(raw, max_bytes)
    if not isinstance(value, list):
        raise InvalidManifest(f"document: expected a list, got {_kind(value)}")
    return value


def _read(raw: bytes, max_bytes: int) -> object:
    if len(raw) > max_bytes:
        raise InvalidManifest(f"document too large: {len(raw)} bytes, limit {max_bytes}")
    try:
        text = raw.decode()
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # fails where half a pair stands alone
    except RecursionError as error:
        raise InvalidManifest("document nested too deep") from error
    except ValueError as error:
        raise InvalidManifest(f"document is not JSON: {error}") from error
    return value


def text_in(document: Mapping[str, Any], key: str, where: str = "") -> str:
    """
    The string under *key*, empty where there is none.
    """
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        _refuse(f"{where}{key}", "a string", value)
    return value


def object_in(document: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any] | None:
    """
    The object under *key*.
    """
    value = document.get(key)
    if value is not None and not isinstance(value, dict):
        _refuse(f"{where}{key}", "an object", value)
    return value


def list_in(document: Mapping[str, Any], key: str, where: str = "", *, limit: int) -> list[Any]:
    """
    The list under *key*, of at most *limit* entries.
    """
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        _refuse(f"{where}{key}", "a list", value)
    if len(value) > limit:
        raise InvalidManifest(f"{where}{key}: {len(value)} entries, limit {limit}")
    return value


def strings_in(document: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """
    The list of strings under *key*.
    """
    values = list_in(document, key, where, limit=MAX_DOCUMENT_BYTES)
    for value in values:
        if not isinstance(value, str):
            _refuse(f"{where}{key}", "a list of strings", value)
    return tuple(values)


def annotations_in(document: Mapping[str, Any], where: str = "") -> Mapping[str, str]:
    """
    The annotations: strings by string.
    """
    values = object_in(document, "annotations", where) or {}
    for value in values.values():
        if not isinstance(value, str):
            _refuse(f"{where}annotations", "strings", value)
    return MappingProxyType(values)


def digest_in(value: object, where: str) -> Digest:
    """
    A digest that is well formed, of whatever algorithm.
    """
    if not isinstance(value, str):
        _refuse(where, "a digest", value)
    if not _DIGEST.fullmatch(value):
        raise InvalidManifest(f"{where}: invalid checksum digest format: {_shown(value)}")
    if value.partition(":")[0] not in REFERENCE_ALGORITHMS:
        return Digest(value)
    try:
        return Digest.parse(value)
    except InvalidReference as error:
        raise InvalidManifest(f"{where}: {error}: {_shown(value)}") from error


def platform_in(document: Mapping[str, Any], where: str = "") -> Platform:
    """
    The platform whose fields *document* has among its own.
    """
    return Platform(
        os=text_in(document, "os", where),
        architecture=text_in(document, "architecture", where),
        variant=text_in(document, "variant", where),
        os_version=text_in(document, "os.version", where),
        os_features=strings_in(document, "os.features", where),
    )


def descriptor_in(document: Mapping[str, Any], key: str) -> Descriptor | None:
    """
    The descriptor under *key*.
    """
    value = object_in(document, key)
    return None if value is None else _descriptor(value, f"{key}.")


def descriptors_in(document: Mapping[str, Any], key: str, *, limit: int) -> tuple[Descriptor, ...]:
    """
    The descriptors in the list under *key*.
    """
    descriptors = []
    for number, value in enumerate(list_in(document, key, limit=limit)):
        if not isinstance(value, dict):
            _refuse(f"{key}[{number}]", "an object", value)
        descriptors.append(_descriptor(value, f"{key}[{number}]."))
    return tuple(descriptors)


def _descriptor(value: dict[str, Any], where: str) -> Descriptor:
    platform = object_in(value, "platform", where)
    return Descriptor(
        media_type=text_in(value, "mediaType", where),
        digest=digest_in(value.get("digest"), f"{where}digest"),
        size=_size(value.get("size"), f"{where}size"),
        urls=strings_in(value, "urls", where),
        annotations=annotations_in(value, where),
        platform=None if platform is None else platform_in(platform, f"{where}platform."),
        artifact_type=text_in(value, "artifactType", where),
        data=_data(value, where),
    )


def _size(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(where, "a number of bytes", value)
    if not 0 <= value <= MAX_CONTENT_BYTES:
        raise InvalidManifest(f"{where}: {value} is not between 0 and {MAX_CONTENT_BYTES}")
    return value


def _data(document: Mapping[str, Any], where: str) -> bytes | None:
    if document.get("data") is None:
        return None
    text = text_in(document, "data", where)
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b"\r\n"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidManifest(f"{where}data: not base64") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise InvalidManifest(f"document has a key twice: {_shown(key)}")
        seen.add(key)
    raise AssertionError("fewer keys than pairs, and none twice")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidManifest(f"document is not JSON: {name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidManifest(f"document has a number without bounds: {_shown(text)}")
    return value


def _refuse(where: str, expected: str, value: object) -> NoReturn:
    raise InvalidManifest(f"{where}: expected {expected}, got {_kind(value)}")


def _kind(value: object) -> str:
    """
    What JSON calls it.
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _shown(text: str) -> str:
    return ascii(text) if len(text) <= 80 else f"{text[:77]!a}..."
