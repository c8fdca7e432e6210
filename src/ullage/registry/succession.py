"""
Whom to ask for what a repo has: mirrors, the registry, and where a manifest says that a layer is.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, TypeVar

from ullage.errors import ContentError, ImageError, PullCancelled, RegistryUnavailable
from ullage.registry.elsewhere import Elsewhere, elsewhere
from ullage.registry.request import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ullage.digest import Digest
    from ullage.registry.identity import Credentials
    from ullage.registry.patience import Patience
    from ullage.registry.peer import Peer
    from ullage.registry.stream import Opened

__all__ = ["Succession"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Succession:
    """
    The hosts of one repo during one pull. Thread-safe.

    Mirrors are asked first, in their order, each for what it may be asked for,
    and the registry itself last. A mirror that fails, has not what it is asked
    for, or wants credentials that we do not have is passed over, and what
    followed it is asked from then on. Only the last host is asked again: while
    there is another one, waiting is a waste.
    """

    def __init__(self, peers: tuple[Peer, ...], *, name: str, patience: Patience) -> None:
        self._peers = peers
        self._name = name
        self._patience = patience
        self._group = Group()
        self._lock = threading.Lock()
        self._first: dict[str, int] = {}
        self._down: set[Peer | Elsewhere] = set()
        self._served: dict[Digest, Peer | Elsewhere] = {}
        self._told_by: Peer | None = None
        self._distrusted: set[tuple[Digest, Peer | Elsewhere]] = set()
        #: How many bytes of manifests and blobs came from each host; what came twice counts twice.
        self.received_from: dict[str, int] = {}

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """
        Which host, ``name[:port]``, sent the bytes of each digest; the last one, where several did.
        """
        with self._lock:
            return {digest: peer.name for digest, peer in self._served.items()}

    @property
    def served(self) -> Credentials | None:
        """
        Whom we were served as by the host that said what the reference is; None where it would have told anybody.
        """
        return None if self._told_by is None else self._told_by.served

    def _count(self, host: str, received_bytes: int) -> None:
        with self._lock:
            self.received_from[host] = self.received_from.get(host, 0) + received_bytes

    def distrust(self, digest: Digest) -> bool:
        """
        What was served under *digest* had another: do not ask that host again.

        Returns:
            Whether there is another one to ask; False where it was the registry itself.
        """
        with self._lock:
            peer = self._served.get(digest)
            # It may be down already, by what it served under another digest at the same time.
            if peer is None or peer is self._peers[-1] or (digest, peer) in self._distrusted:
                return False
            self._distrusted.add((digest, peer))
            self._down.add(peer)
        _log.warning("the mirror %s served wrong bytes for %s", peer.name, digest)
        return True

    def abort(self) -> None:
        """
        End every request of this repo, from any thread.

        What waits raises PullCancelled at once, and so does whatever is asked next.
        """
        self._group.abort()

    def _ask(self, kind: str, ask: Callable[[Peer, Patience], _T], *, doing: str) -> _T:
        """
        What the first peer answers that has an answer; what the last one raises, if none has.
        """
        passed: list[tuple[Peer, ImageError]] = []
        peers = self._order(kind)
        if not peers:
            raise RegistryUnavailable(
                f"{doing}: hosts.toml names no host with the capability {_capability(kind)}",
                hint="add it to the capabilities of a host, or of the server",
            )
        for peer in peers[:-1]:
            try:
                answer = ask(peer, self._patience.none)
            except PullCancelled:
                raise
            except ImageError as error:
                self._group.check()
                _log.info("the mirror %s is passed over: %s", peer.name, error)
                passed.append((peer, error))
                if isinstance(error, RegistryUnavailable) and error.status is None:
                    self._down.add(peer)
            else:
                self._start_with(kind, peer)
                return answer
        try:
            answer = ask(peers[-1], self._patience)
        except ImageError as error:
            if passed:
                tell = "; ".join(f"{peer.name} failed: {failure.message}" for peer, failure in passed)
                error.message = f"{error.message} (before it, {tell})"
                error.args = (error.message,)
            raise
        self._start_with(kind, peers[-1])
        return answer

    def _anywhere(
        self,
        urls: Sequence[str],
        ask: Callable[[Peer | Elsewhere, Patience], Opened],
        before: Opened | None,
        *,
        doing: str,
    ) -> Opened:
        """
        A blob from the registry or a mirror, or from where its manifest says that it is, when they do not have it.
        """
        absent = ""
        if before is None or not isinstance(before.peer, Elsewhere):
            try:
                return self._ask("blobs", ask, doing=doing)
            except ContentError as error:
                # Its subclasses say that something is wrong with it; this one, that it is not there.
                if not urls or type(error) is not ContentError:
                    raise
                absent = f"{error.message}; "
        others, failures = elsewhere(urls, self._peers[-1])
        able = [each for each in others if each not in self._down] or others[-1:]
        for each in able:
            try:
                return ask(each, self._patience if each is able[-1] else self._patience.none)
            except PullCancelled:
                raise
            except ImageError as error:
                self._group.check()
                failures.append(error.message)
                if each is able[-1] and type(error) is not ContentError:
                    raise
        raise ContentError(
            f"{absent}where else it should be, it cannot be had: {'; '.join(failures)}",
            hint="the image names a layer that its registry does not distribute; ask who built it",
        )

    def _order(self, kind: str) -> list[Peer]:
        with self._lock:
            able = [
                peer
                for peer in self._peers[self._first.get(kind, 0) :]
                if _capability(kind) in peer.host.capabilities
            ]
            # One that did not answer is not asked for each layer anew; but the last resort is.
            return [peer for peer in able if peer not in self._down] or able[-1:]

    def _start_with(self, kind: str, peer: Peer) -> None:
        with self._lock:
            if self._told_by is None and kind in {"resolve", "manifests"}:
                self._told_by = peer
            self._first[kind] = max(self._first.get(kind, 0), self._peers.index(peer))

    def _pass_over(self, kind: str, peer: Peer) -> None:
        with self._lock:
            self._first[kind] = max(self._first.get(kind, 0), self._peers.index(peer) + 1)


def _capability(kind: str) -> str:
    if kind == "tags":
        return "resolve"  # a mirror that does not know what tags denote does not know which there are, either
    return kind if kind in {"resolve", "referrers"} else "pull"
