"""
Conformance: does a document keep to image-spec's JSON schemas, to the letter.

A pull does not ask: registries serve documents that do not (`ullage.manifest`
says what a pull needs). This is for what we write ourselves. The verdicts are
those of image-spec's own Go validator, which decodes into its Go types first
and holds the schema against it then.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import re
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from ullage.digest import REFERENCE_ALGORITHMS, Digest
from ullage.document import read_object
from ullage.errors import InvalidManifest, InvalidReference, UnsupportedContent

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[object, str], object]

__all__ = ["validate_document"]

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_ENV = re.compile(r"[^=]+=[^\n]*")
_DATE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:Z|[+-](\d\d):(\d\d))", re.ASCII
)
_BROKEN_URI = re.compile(r"[\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})")
_INT64 = 2**63


def validate_document(media_type: str, raw: bytes) -> None:
    """
    Check a descriptor, manifest, index, config or layout header against its schema.

    Raises:
        InvalidManifest: it does not keep to the schema; the message says where.
        UnsupportedContent: there is no schema for *media_type*.
    """
    check = _SCHEMAS.get(media_type)
    if check is None:
        raise UnsupportedContent(f"no schema for media type: {media_type[:255]!a}", media_type=media_type)
    check(read_object(raw), "")


def _fail(where: str, message: str) -> NoReturn:
    raise InvalidManifest(f"{where or 'document'}: {message}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        _fail(where, "expected a string")
    return value


def _pattern(expression: re.Pattern[str]) -> Check:
    def check(value: object, where: str) -> None:
        text = _text(value, where)
        if not expression.fullmatch(text):
            _fail(where, f"{text[:80]!a} does not match {expression.pattern}")

    return check


def _one_of(*allowed: str) -> Check:
    def check(value: object, where: str) -> None:
        if value not in allowed:
            _fail(where, f"expected one of {', '.join(allowed)}")

    return check


def _integer(lowest: int, highest: int) -> Check:
    def check(value: object, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            _fail(where, "expected an integer")
        if not lowest <= value <= highest:
            _fail(where, f"{value} is not between {lowest} and {highest}")

    return check


def _boolean(value: object, where: str) -> None:
    if not isinstance(value, bool):
        _fail(where, "expected a boolean")


def _list(item: Check, *, at_least: int = 0) -> Check:
    def check(value: object, where: str) -> None:
        if not isinstance(value, list):
            _fail(where, "expected a list")
        if len(value) < at_least:
            _fail(where, f"{len(value)} items, at least {at_least} expected")
        for number, each in enumerate(value):
            item(each, f"{where}[{number}]")

    return check


def _mapping(item: Check) -> Check:
    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "expected an object")
        for key, each in value.items():
            item(each, f"{where}[{key[:80]!a}]")

    return check


def _record(required: tuple[str, ...], **fields: Check) -> Check:
    """
    An object with these fields, of which some must be there. A double underscore is a dot.
    """
    checks = {name.replace("__", "."): check for name, check in fields.items()}

    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "expected an object")
        for name in required:
            if name not in value:
                _fail(where, f"missing property {name}")
        for name, one in checks.items():
            if name in value:
                one(value[name], f"{where}.{name}".lstrip("."))

    return check


def _or_null(item: Check) -> Check:
    def check(value: object, where: str) -> None:
        if value is not None:
            item(value, where)

    return check


def _base64(value: object, where: str) -> None:
    text = _text(value, where)
    try:
        base64.b64decode(text.encode("ascii").translate(None, b"\r\n"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        _fail(where, "not base64")


def _uri(value: object, where: str) -> None:
    text = _text(value, where)
    try:
        is_absolute = bool(urlsplit(text).scheme) and not _BROKEN_URI.search(text)
    except ValueError:
        is_absolute = False
    if not is_absolute:
        _fail(where, f"{text[:80]!a} is no URI")


def _date_time(value: object, where: str) -> None:
    text = _text(value, where)
    match = _DATE_TIME.fullmatch(text)
    if match is not None:
        year, month, day, hour, minute, second, *offset = (int(part or 0) for part in match.groups())
        if (
            1 <= month <= 12
            and 1 <= day <= calendar.monthrange(year or 4, month)[1]  # the year 0 is a leap year
            and hour < 24
            and minute < 60
            and second < 60
            and offset[0] < 24
            and offset[1] < 60
        ):
            return
    _fail(where, f"{text[:80]!a} is no RFC 3339 time")


def _own_digest(value: object, where: str) -> None:
    """
    A descriptor by itself has its digest checked; one of an unknown algorithm passes.
    """
    text = _text(value, where)
    _pattern(_DIGEST)(text, where)
    if text.partition(":")[0] in REFERENCE_ALGORITHMS:
        try:
            Digest.parse(text)
        except InvalidReference as error:
            raise InvalidManifest(f"{where}: {error}") from error


_media_type = _pattern(_MEDIA_TYPE)
_annotations = _mapping(_text)
_texts = _list(_text)
_objects = _mapping(_record(()))
_platform_fields = {"variant": _text, "os__version": _text, "os__features": _texts}
_descriptor_fields: dict[str, Check] = {
    "mediaType": _media_type,
    "size": _integer(0, _INT64 - 1),
    "digest": _pattern(_DIGEST),
    "urls": _list(_uri),
    "data": _base64,
    "artifactType": _media_type,
    "annotations": _annotations,
    # Of the Go type alone, where every null passes.
    "platform": _or_null(
        _record(
            (),
            os=_or_null(_text),
            architecture=_or_null(_text),
            variant=_or_null(_text),
            os__version=_or_null(_text),
            os__features=_or_null(_list(_or_null(_text))),
        )
    ),
}
_named = ("mediaType", "size", "digest")
_descriptor = _record(_named, **_descriptor_fields)
# An entry of an index has a schema of its own: its platform is checked, its size may be
# negative, and of its data and artifact type the Go type alone says something.
_entry = _record(
    _named,
    **{
        **_descriptor_fields,
        "size": _integer(-_INT64, _INT64 - 1),
        "data": _or_null(_base64),
        "artifactType": _or_null(_text),
        "platform": _record(("architecture", "os"), architecture=_text, os=_text, **_platform_fields),
    },
)
_document_fields: dict[str, Check] = {
    "schemaVersion": _integer(2, 2),
    "mediaType": _media_type,
    "artifactType": _media_type,
    "subject": _descriptor,
    "annotations": _annotations,
}
_command = _or_null(_texts)
_SCHEMAS: Final[dict[str, Check]] = {
    "application/vnd.oci.descriptor.v1+json": _record(
        _named, **{**_descriptor_fields, "digest": _own_digest}
    ),
    "application/vnd.oci.layout.header.v1+json": _record(
        ("imageLayoutVersion",), imageLayoutVersion=_one_of("1.0.0")
    ),
    "application/vnd.oci.image.manifest.v1+json": _record(
        ("schemaVersion", "config", "layers"),
        **_document_fields,
        config=_descriptor,
        layers=_list(_descriptor, at_least=1),
    ),
    "application/vnd.oci.image.index.v1+json": _record(
        ("schemaVersion", "manifests"), **_document_fields, manifests=_list(_entry)
    ),
    "application/vnd.oci.image.config.v1+json": _record(
        ("architecture", "os", "rootfs"),
        created=_date_time,
        author=_text,
        architecture=_text,
        os=_text,
        **_platform_fields,
        config=_record(
            (),
            User=_text,
            ExposedPorts=_objects,
            Env=_list(_pattern(_ENV)),
            Entrypoint=_command,
            Cmd=_command,
            Volumes=_or_null(_objects),
            WorkingDir=_text,
            Labels=_or_null(_annotations),
            StopSignal=_text,
            ArgsEscaped=_boolean,
        ),
        rootfs=_record(("diff_ids", "type"), diff_ids=_texts, type=_one_of("layers")),
        history=_list(
            _record(
                (),
                created=_date_time,
                author=_text,
                created_by=_text,
                comment=_text,
                empty_layer=_boolean,
            )
        ),
    ),
}
