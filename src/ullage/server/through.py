"""
A caching mirror: what is asked for and not here is passed on from its registry, and pulled at the same time.

    manifest   fetched for whoever asks, verified, passed on; for an image, a pull of it begins
    blob       here: from here; on its way: as it arrives; else from the registry, unstored
    list       of tags, of what refers to a manifest: as the registry has it; while that is down, what is here

So a client never waits for a whole image, what two of them miss is fetched once, and what does not fit under the
storage limit is served all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from ullage.digest import Digest, digest_of
from ullage.errors import (
    DigestMismatch,
    ImageError,
    InvalidReference,
    ManifestUnknown,
    RegistryUnavailable,
)
from ullage.manifest import Index, parse_document
from ullage.model import PullPolicy
from ullage.reference import Reference
from ullage.server.passing import Coming, Passing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from ullage.document import Descriptor
    from ullage.manifest import Manifest
    from ullage.registry import FetchedManifest, RegistryRepo, TagPage
    from ullage.service import ImageService

__all__ = ["Document", "Through"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

#: Pulls at once; each fetches a few blobs in parallel.
_PARALLEL_PULLS: Final = 4
#: What is remembered of what was passed on.
_MAX_TAGS: Final = 10_000
_MAX_DOCUMENTS: Final = 256
_MAX_DOCUMENT_BYTES: Final = 32 * 1024 * 1024
_MAX_SIZES: Final = 100_000
_TURNS: Final = 64
#: For how long a registry that did not answer is not asked for what is here.
DOWN_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Document:
    """
    A manifest or an index as its registry has it.
    """

    digest: Digest
    media_type: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Child:
    """
    By which reference, for which platform, a manifest of an index is pulled.
    """

    reference: str
    platform: str | None


class Through:
    """
    What ``--pull-through`` does. Thread-safe.

    Args:
        upstreams: the registries whose names are brought, by domain.
        max_age_seconds: for how long what a tag was found to denote is taken for true.
        evict: whether images may go to make room.
    """

    def __init__(
        self, service: ImageService, upstreams: tuple[str, ...], *, max_age_seconds: float, evict: bool
    ) -> None:
        self._service = service
        self.upstreams = tuple(dict.fromkeys(_domain(each) for each in upstreams))
        self._max_age_seconds = max_age_seconds
        self._evict = evict
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self._executor = ThreadPoolExecutor(_PARALLEL_PULLS, thread_name_prefix="ullage-through")
        self._pulls: dict[tuple[str, str | None], Future[None]] = {}
        self._tags: OrderedDict[tuple[str, str], tuple[float, Digest]] = OrderedDict()
        self._documents: OrderedDict[tuple[str, Digest], Document] = OrderedDict()
        self._document_bytes = 0
        self._children: OrderedDict[tuple[str, Digest], _Child] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, Digest], int] = OrderedDict()
        self._coming: dict[Digest, Coming] = {}
        self._down_until: dict[str, float] = {}
        #: Who asks for one tag waits for whoever asks for it already; a few tags share a turn.
        self._turns = tuple(threading.Lock() for _ in range(_TURNS))

    def close(self) -> None:
        """
        End the pulls; what they received of large blobs stays.
        """
        self._cancel.set()
        self._executor.shutdown(cancel_futures=True)

    def covers(self, repo: str) -> bool:
        """
        Whether *repo* is of a registry that is mirrored.
        """
        return repo.partition("/")[0] in self.upstreams

    # ------------------------------------------------------------------ documents

    def document(self, repo: str, ref: str, *, wanted: bool) -> Document | None:
        """
        What *ref* is; None where what the store says of it holds.

        With *wanted*, somebody fetches it: where it is an image's manifest, the image is pulled as well.

        Raises:
            ManifestUnknown, AuthenticationFailed, RegistryUnavailable: the registry's answer, and it is not here.
            ContentError: what it sent is not what it should be.
        """
        if ":" in ref:
            if self._service.content(repo, ref) is not None:
                return None
            document = self._remembered(repo, Digest.parse(ref)) or self._fetch(repo, ref)
        else:
            found = self._tagged(repo, ref)
            if found is None:
                return None
            document = found
            # Content that is here already gets its name for the price of a question.
            wanted = wanted or self._service.content(repo, document.digest) is not None
        if wanted:
            self._bring(repo, ref, document)
        return document

    def _tagged(self, repo: str, tag: str) -> Document | None:
        with self._turns[hash((repo, tag)) % _TURNS]:
            local = self._service.content(repo, tag)
            domain = repo.partition("/")[0]
            if local is not None and time.monotonic() < self._down_until.get(domain, 0.0):
                return None
            try:
                digest = self._resolve(repo, tag)
            except RegistryUnavailable as error:
                if local is None:
                    raise
                self._down_until[domain] = time.monotonic() + DOWN_SECONDS
                _log.warning("%s:%s is served as it is here: %s", repo, tag, error)
                return None
            if local is not None and digest == local.digest:
                return None
            if digest is not None and (known := self._remembered(repo, digest)) is not None:
                return known
            document = self._fetch(repo, digest or tag)
            self._remember_tag(repo, tag, document.digest)
            return document

    def _resolve(self, repo: str, tag: str) -> Digest | None:
        """
        What a tag denotes, found out not longer ago than we may rely on; None where the registry does not say.
        """
        with self._lock:
            checked = self._tags.get((repo, tag))
        if checked is not None and time.monotonic() - checked[0] < self._max_age_seconds:
            return checked[1]
        head = self._service.upstream(repo).head_manifest(tag)
        if head is None:
            return None
        self._remember_tag(repo, tag, head.digest)
        return head.digest

    def _fetch(self, repo: str, ref: str) -> Document:
        fetched = self._service.upstream(repo).get_manifest(ref)
        document = _verified(ref, fetched)
        parsed = parse_document(document.raw, media_type=document.media_type, digest=document.digest)
        with self._lock:
            self._keep(repo, document)
            if isinstance(parsed, Index):
                self._note_children(repo, ref, parsed)
            else:
                for each in parsed.blobs:
                    self._sizes[repo, each.digest] = each.size
                while len(self._sizes) > _MAX_SIZES:
                    self._sizes.popitem(last=False)
        return document

    def _note_children(self, repo: str, ref: str, index: Index) -> None:
        # Many look at a tag and fetch by digest: the tag is what the image shall be called here, too.
        tag = self._tag_of(repo, index.digest)
        named = f"{repo}:{tag}" if tag else f"{repo}@{index.digest}" if ":" in ref else f"{repo}:{ref}"
        for each in index.manifests:
            if each.platform is not None:
                platform = each.platform.normalised().format_all()
                self._children[repo, each.digest] = _Child(named, platform)
        while len(self._children) > _MAX_SIZES:
            self._children.popitem(last=False)

    def _tag_of(self, repo: str, digest: Digest) -> str:
        """
        The tag that was found to denote *digest* last; '' without one. Under the lock.
        """
        return next(
            (
                tag
                for (name, tag), (_, found) in reversed(self._tags.items())
                if (name, found) == (repo, digest)
            ),
            "",
        )

    def _remembered(self, repo: str, digest: Digest) -> Document | None:
        with self._lock:
            return self._documents.get((repo, digest))

    def _remember_tag(self, repo: str, tag: str, digest: Digest) -> None:
        with self._lock:
            self._tags[repo, tag] = (time.monotonic(), digest)
            self._tags.move_to_end((repo, tag))
            while len(self._tags) > _MAX_TAGS:
                self._tags.popitem(last=False)

    def _keep(self, repo: str, document: Document) -> None:
        before = self._documents.pop((repo, document.digest), None)
        self._documents[repo, document.digest] = document
        self._document_bytes += len(document.raw) - (0 if before is None else len(before.raw))
        while len(self._documents) > _MAX_DOCUMENTS or self._document_bytes > _MAX_DOCUMENT_BYTES:
            _, gone = self._documents.popitem(last=False)
            self._document_bytes -= len(gone.raw)

    # ------------------------------------------------------------------ lists

    def tags(self, repo: str, query: Mapping[str, str]) -> TagPage | None:
        """
        A page of a repo's tags as its registry has them; None where that is down, or lists none, and some are here.

        Raises:
            ManifestUnknown, AuthenticationFailed, RegistryUnavailable: the registry's answer.
            PullFailed: it makes no sense.
        """
        return self._told(repo, lambda registry: registry.tags(query))

    def referrers(self, repo: str, digest: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
        """
        What refers to a manifest by its registry's word, as `tags`.
        """
        return self._told(repo, lambda registry: registry.referrers(digest, artifact_type=artifact_type))

    def _told(self, repo: str, ask: Callable[[RegistryRepo], _T]) -> _T | None:
        domain = repo.partition("/")[0]
        here = self._service.is_repo(repo)
        if here and time.monotonic() < self._down_until.get(domain, 0.0):
            return None
        try:
            return ask(self._service.upstream(repo))
        except ManifestUnknown as error:
            if not here or error.status != HTTPStatus.METHOD_NOT_ALLOWED:
                raise
            return None  # it has no such list of anything
        except RegistryUnavailable as error:
            if not here:
                raise
            self._down_until[domain] = time.monotonic() + DOWN_SECONDS
            _log.warning("what there is of %s is told as it is here: %s", repo, error)
            return None

    # ------------------------------------------------------------------ pulls

    def _bring(self, repo: str, ref: str, document: Document) -> None:
        """
        Have the image of a manifest in the store; of an index, wait for which of its manifests is asked for.
        """
        parsed = parse_document(document.raw, media_type=document.media_type, digest=document.digest)
        if isinstance(parsed, Index):
            return
        with self._lock:
            child = self._children.get((repo, document.digest))
            tag = self._tag_of(repo, document.digest) if ":" in ref else ref
        if child is None:
            child = _Child(f"{repo}:{tag}" if tag else f"{repo}@{document.digest}", None)
        key = (child.reference, child.platform)
        with self._lock:
            running = self._pulls.get(key)
            if self._cancel.is_set() or (running is not None and not running.done()):
                return
            coming = Coming()
            for each in parsed.blobs:
                self._coming.setdefault(each.digest, coming)
            self._pulls[key] = self._executor.submit(self._pull, repo, child, parsed, coming)

    def _pull(self, repo: str, child: _Child, manifest: Manifest, coming: Coming) -> None:
        key = (child.reference, child.platform)
        try:
            self._pull_as(child.reference, child.platform)
            if self._service.content(repo, manifest.digest) is None:
                # The index has another image for that platform, too, or the tag has moved.
                self._pull_as(f"{repo}@{manifest.digest}", None)
        except ImageError as error:
            # Who asks for its content gets it from the registry.
            _log.warning("%s is not kept: %s", child.reference, error)
        finally:
            coming.end()
            with self._lock:
                self._pulls.pop(key, None)
                for each in manifest.blobs:
                    if self._coming.get(each.digest) is coming:
                        del self._coming[each.digest]

    def _pull_as(self, reference: str, platform: str | None) -> None:
        self._service.pull_image(
            reference, policy=PullPolicy.ALWAYS, platform=platform, evict=self._evict, cancel=self._cancel
        )

    # ------------------------------------------------------------------ blobs

    def blob(self, repo: str, digest: Digest) -> Passing | None:
        """
        A blob that is not here: on its way, or still at its registry. None where nobody has asked for a manifest that
        names it.
        """
        with self._lock:
            size = self._sizes.get((repo, digest))
            coming = self._coming.get(digest)
        if size is None:
            return None
        return Passing(self._service, repo, digest, size, coming)


def _verified(ref: str, fetched: FetchedManifest) -> Document:
    expected = Digest(ref) if ":" in ref else fetched.digest
    actual = digest_of(fetched.raw, "sha256" if expected is None else expected.algorithm)
    if expected is not None and actual != expected:
        raise DigestMismatch(
            f"digest mismatch: expected {expected}, got {actual}", expected=expected, actual=actual
        )
    return Document(actual, fetched.media_type, fetched.raw)


def _domain(text: str) -> str:
    """
    The registry that *text* names.

    Raises:
        InvalidReference: it names none.
    """
    host = text.rstrip("/")
    reference = Reference.parse(f"{host}/x")
    if "/" in host or not ("." in host or ":" in host or host == "localhost"):
        raise InvalidReference(
            f"no registry: {text}",
            reference=text,
            hint="a registry is a host, such as docker.io or localhost:5000",
        )
    return reference.domain
