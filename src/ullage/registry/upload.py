"""
One blob on its way into a registry: begun, appended to, asked how far it is, finished.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from ullage.errors import ImageError, PushFailed, RegistryUnavailable
from ullage.registry.answers import MAX_ERROR_BYTES, TRANSIENT, said
from ullage.registry.endpoint import printable, redirect_target, shown
from ullage.registry.fetched import digest_header
from ullage.registry.patience import Patience
from ullage.registry.request import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ullage.digest import Digest
    from ullage.registry.peer import Peer
    from ullage.registry.request import Group
    from ullage.registry.transport import Answer

__all__ = ["NoChunks", "Upload", "write_refusal"]

_OCTETS: Final = "application/octet-stream"
_ONCE: Final = Patience(1, 0.0, 0.0)
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TAKEN: Final = frozenset({HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT, HTTPStatus.OK, HTTPStatus.CREATED})
#: A registry that knows no PATCH, or none after the first.
_NO_CHUNKS: Final = frozenset({400, 404, 405, 411, 415, 501})
#: The most that a registry may want of each chunk.
_MAX_CHUNK_BYTES: Final = 64 * 1024 * 1024


class NoChunks(PushFailed):
    """
    The registry does not take a blob in pieces. It may take it in one.
    """


class Upload:
    """
    What a registry calls an upload session. Its address changes with each answer; one thread uses it.

    ``min_chunk_bytes`` is what the registry wants of each chunk but the last.
    """

    def __init__(self, peer: Peer, group: Group, answer: Answer, *, doing: str) -> None:
        self._peer = peer
        self._group = group
        self._doing = doing
        self._from_here = answer.from_here
        self._url = self._address(answer)
        stated = answer.header("OCI-Chunk-Min-Length")
        self.min_chunk_bytes = min(int(stated), _MAX_CHUNK_BYTES) if _LENGTH.fullmatch(stated) else 0

    def put(self, digest: Digest, body: Stream | None = None) -> None:
        """
        Finish it, with the whole blob as its *body* where nothing was appended.

        Raises:
            PushFailed: the registry refuses it: most likely other bytes arrived than *digest* says; or calls it
                something else.
                RegistryUnavailable: no answer.
        """
        headers = {} if body is None else {"Content-Type": _OCTETS}
        answer = self._send("PUT", _with_digest(self._url, digest), headers, body or Stream.of(b""))
        if answer.status not in _TAKEN:
            raise self._refusal(answer)
        answer.finish()
        taken = digest_header(answer)
        if taken is not None and taken != digest:
            raise PushFailed(
                f"{self._doing}: the registry calls it {taken}, and it is {digest}",
                url=shown(answer.url),
                status=answer.status,
            )

    def append(self, offset: int, body: Stream) -> None:
        """
        The next bytes of it, which begin at *offset*.

        Raises:
            NoChunks: the registry takes no pieces.
            PushFailed: it refuses this one.
            RegistryUnavailable: no answer; ask it how far it got.
        """
        headers = {"Content-Type": _OCTETS, "Content-Range": f"{offset}-{offset + body.length - 1}"}
        answer = self._send("PATCH", self._url, headers, body)
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer.finish()
            raise RegistryUnavailable(
                f"{self._doing}: the registry is not where we are, at byte {offset}",
                url=shown(self._url),
                status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE.value,
            )
        if answer.status not in _TAKEN:
            raise self._refusal(answer, NoChunks if answer.status in _NO_CHUNKS else PushFailed)
        answer.finish()
        self._move(answer)

    def offset(self) -> int | None:
        """
        How many bytes the registry has; None when it has forgotten the upload, or cannot say.
        """
        try:
            answer = self._peer.send_to(
                self._url,
                "GET",
                f"{self._doing}: asking how far it is",
                {},
                group=self._group,
                patience=Patience(),
                from_here=self._from_here,
            )
        except RegistryUnavailable:
            return None
        answer.finish()
        if answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.ACCEPTED, HTTPStatus.OK}:
            return None
        self._move(answer)
        stated = _RANGE.fullmatch(answer.header("Range"))
        if stated is None:
            return None
        # "0-0" is one byte, and what registries say of none.
        return int(stated[1]) + 1 if int(stated[1]) else 0

    def cancel(self) -> None:
        """
        Let the registry forget it; whether it does is its own business.
        """
        with suppress(ImageError):
            self._send("DELETE", self._url, {}, None).finish()

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Stream | None) -> Answer:
        answer = self._peer.send_to(
            url,
            method,
            self._doing,
            headers,
            group=self._group,
            patience=_ONCE,
            body=body,
            from_here=self._from_here,
        )
        if answer.status in TRANSIENT:
            raise self._peer.refusal(answer, answer.read_all(MAX_ERROR_BYTES))
        return answer

    def _move(self, answer: Answer) -> None:
        if answer.header("Location"):
            self._url = self._address(answer)

    def _address(self, answer: Answer) -> str:
        try:
            location = answer.header("Location")
            if not location:
                raise ValueError("no Location")  # noqa: TRY301  one place says what is wrong with it
            return redirect_target(answer.url, location, from_here=answer.from_here)
        except ValueError as error:
            raise PushFailed(
                f"{self._doing}: the registry does not say where to, or what we do not follow: "
                f"{printable(str(error), 200)}",
                url=shown(answer.url),
                status=answer.status,
                hint="the registry or something before it sends us elsewhere; ask its owner",
            ) from error

    def _refusal(self, answer: Answer, kind: type[PushFailed] = PushFailed) -> ImageError:
        return write_refusal(self._peer, answer, answer.read_all(MAX_ERROR_BYTES), kind)


def write_refusal(
    peer: Peer, answer: Answer, body: bytes | None, kind: type[PushFailed] = PushFailed
) -> ImageError:
    """
    What a status that says no means to whoever writes.
    """
    if answer.status == HTTPStatus.FORBIDDEN:
        error = peer.refusal(answer, body)
        error.hint = "ask the registry's owner for the right to push to it"
        return error
    if answer.status in TRANSIENT or answer.status == HTTPStatus.UNAUTHORIZED:
        return peer.refusal(answer, body)
    errors = peer.errors(answer, body)
    return kind(
        f"{answer.request.doing}: the registry answered {answer.status}{said(errors)}",
        url=shown(answer.url),
        status=answer.status,
        registry_errors=errors,
    )


def _with_digest(url: str, digest: Digest) -> str:
    """
    The address with our digest in its query, and nobody else's.

    What else is in it stays as it is, to the letter: it may be signed.
    """
    base, _, query = url.partition("?")
    if any(name == "digest" for name, _ in parse_qsl(query)):
        query = "&".join(each for each in query.split("&") if each.partition("=")[0] != "digest")
    return f"{base}?{query}{'&' if query else ''}{urlencode({'digest': digest})}"
