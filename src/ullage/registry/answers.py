"""
What a registry says went wrong, as one of our exceptions. No I/O.

The error document is that of the OCI distribution specification 1.1,
spec.md#error-codes; token servers answer as RFC 6749 §5.2, or as Docker's does.
"""

from __future__ import annotations

import email.utils
import json
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ullage.errors import AccessDenied, AuthenticationFailed, RegistryUnavailable
from ullage.registry.endpoint import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ullage.errors import ImageError

__all__ = [
    "MAX_ERROR_BYTES",
    "TRANSIENT",
    "document",
    "refusal",
    "registry_errors",
    "retry_after_seconds",
    "said",
]

#: Statuses that say that the same request may get another answer later.
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
#: What is read of an error's body.
MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_ERRORS: Final = 8
_MAX_CODE_CHARACTERS: Final = 64
_MAX_MESSAGE_CHARACTERS: Final = 300
#: A shorter secret would be found in half of all words.
_MIN_SECRET_CHARACTERS: Final = 3

Errors = tuple[tuple[str, str], ...]


def registry_errors(body: bytes | None, *, secrets: Iterable[str] = ()) -> Errors:
    """
    The (code, message) pairs of an error document; () when it is none.

    A registry may echo what it was sent: *secrets* are blotted out.
    """
    content = document(body)
    listed = content.get("errors")
    if isinstance(listed, list):
        pairs = [
            (each.get("code"), each.get("message")) for each in listed[:_MAX_ERRORS] if isinstance(each, dict)
        ]
    elif "error" in content:
        pairs = [(content["error"], content.get("error_description"))]
    else:
        pairs = [("", content.get("details") or content.get("message"))]
    hidden = [each for each in secrets if len(each) >= _MIN_SECRET_CHARACTERS]
    errors = (
        (_clean(code, _MAX_CODE_CHARACTERS, hidden), _clean(message, _MAX_MESSAGE_CHARACTERS, hidden))
        for code, message in pairs
    )
    return tuple(each for each in errors if any(each))


def document(body: bytes | None) -> dict[str, Any]:
    """
    A JSON object; {} when *body* holds none.
    """
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def said(errors: Errors) -> str:
    """
    The registry's own words at the end of a message: `` (DENIED: no right to it)``.
    """
    texts = [": ".join(part for part in each if part) for each in errors]
    return f" ({'; '.join(texts)})" if texts else ""


def refusal(
    status: int, *, doing: str, url: str, errors: Errors, retry_after_seconds: float | None = None
) -> ImageError:
    """
    What to raise for a *status* that says no, where the caller has no better word.
    """
    facts: dict[str, Any] = {"url": url, "status": status, "registry_errors": errors}
    words = said(errors)
    if status in TRANSIENT:
        facts["retry_after_seconds"] = retry_after_seconds
    wait = "" if retry_after_seconds is None else f", it asks to wait for {retry_after_seconds:.0f} s"
    if status == HTTPStatus.UNAUTHORIZED:
        return AuthenticationFailed(f"{doing}: credentials are missing or were refused{words}", **facts)
    if status == HTTPStatus.FORBIDDEN:
        return AccessDenied(
            f"{doing}: access denied{words}",
            hint="ask the registry's owner for the right to pull it",
            **facts,
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RegistryUnavailable(
            f"{doing}: too many requests{wait}{words}",
            hint="wait, or pass credentials: registries allow more to those they know",
            **facts,
        )
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return RegistryUnavailable(
            f"{doing}: the proxy answered {status}: it wants credentials",
            hint="a proxy's URL may hold them: http://USER:PASSWORD@HOST:PORT",
            **facts,
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return RegistryUnavailable(
            f"{doing}: the registry answered {status}{wait}{words}",
            hint="the registry has a problem; try again",
            **facts,
        )
    return RegistryUnavailable(
        f"{doing}: the registry answered {status}, which we do not expect{words}",
        hint="is it a registry that answers there?",
        **facts,
    )


def retry_after_seconds(text: str) -> float | None:
    """
    The seconds that a Retry-After header asks for, given as a number or as a date.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _clean(value: object, limit: int, hidden: list[str]) -> str:
    if not isinstance(value, str):
        return ""
    # Cut before the search as well: the message may be as long as the document.
    text = value[: 4 * limit]
    for each in hidden:
        text = text.replace(each, "…")
    return printable(text, limit).strip()
