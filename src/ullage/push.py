"""
One push, of an image from wherever it is to a registry.

    look       what the tag denotes there, and whether the manifest is there       then nothing, or one PUT, is left
    blobs      in parallel: there? in another repo of it? else sent, and verified on the way
    documents  manifests before the indexes that name them, the tag last

What is sent when, and again when, is `ullage.sending`'s.
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ullage.delivery import Pushed, PushProgress
from ullage.digest import Digest, digest_of
from ullage.errors import InvalidManifest, PullCancelled, PushCancelled, PushFailed
from ullage.manifest import OCI_INDEX, Index, parse_document
from ullage.sending import BlobSender, Sent

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from ullage.archive import Outgoing
    from ullage.delivery import PushCallback
    from ullage.document import Descriptor
    from ullage.manifest import Manifest
    from ullage.reference import Reference
    from ullage.registry import RegistryTarget

__all__ = ["Push"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

PARALLEL_UPLOADS: Final = 3
_TICK_SECONDS: Final = 0.05
#: Layers that their owners alone may distribute: a manifest names where, and registries take it without them.
_NOT_OURS: Final = ("foreign", "nondistributable")


class Push:
    """
    One push. `run` it once.

    Args:
        target: the repo at its registry.
        reference: what the image is to be called there: a tag, or its own digest.
        mounts: other repos of the registry that may have a blob.
        deadline: of `time.monotonic`, None for none.
        cancel: set by the caller, from any thread, to end the push.
        abort: ends whatever the image is read from.
    """

    def __init__(
        self,
        *,
        target: RegistryTarget,
        image: Outgoing,
        reference: Reference,
        mounts: Callable[[Digest], Sequence[str]],
        deadline: float | None,
        cancel: threading.Event | None,
        on_progress: PushCallback | None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._image = image
        self._reference = reference
        self._deadline = deadline
        self._cancel = cancel
        self._on_progress = on_progress
        self._abort = abort
        self._sender = BlobSender(target, image, mounts)
        self._told: dict[Digest, int] = {}
        self._results: dict[Sent, list[Descriptor]] = {kind: [] for kind in Sent}

    def run(self) -> Pushed:
        """
        Push. On any exception the tag denotes there what it denoted before.

        Raises:
            PushFailed: the registry does not take it; see its subclasses.
            AuthenticationFailed, RegistryUnavailable: it did not let us, or did not answer.
            ContentError: the bytes are not what the image promises; none of them count there.
        """
        top = self._image.top
        ref = self._reference.digest or self._reference.tag
        assert ref is not None, "a normalised reference has one"
        if self._reference.digest is not None and self._reference.digest != top.digest:
            raise PushFailed(
                f"{self._reference.familiar} would be {top.digest}",
                hint="push it under a tag, or under the digest that it has",
            )
        try:
            with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="ullage-push") as executor:
                try:
                    self._run(executor, ref)
                except BaseException:
                    self._target.abort()  # what the workers wait for ends now, so that the executor can
                    if self._abort is not None:
                        self._abort()
                    executor.shutdown(cancel_futures=True)
                    raise
        except PullCancelled as error:
            # What the requests' own abort is called.
            raise PushCancelled(f"the push to {self._reference.familiar} was ended") from error
        self._tell()
        sent = self._results[Sent.SENT]
        return Pushed(
            reference=str(self._reference),
            repo_digest=f"{self._reference.name}@{top.digest}",
            digest=top.digest,
            media_type=top.media_type,
            sent_blobs=len(sent),
            sent_bytes=sum(blob.size for blob in sent),
            mounted_blobs=len(self._results[Sent.MOUNTED]),
            present_blobs=len(self._results[Sent.PRESENT]),
        )

    def _run(self, executor: ThreadPoolExecutor, ref: str) -> None:
        top = self._image.top
        blobs = [blob for blob in self._image.blobs if not any(each in blob.media_type for each in _NOT_OURS)]
        self._tell()
        if self._until_done(executor.submit(self._target.denotes, ref, top.media_type)) == top.digest:
            self._results[Sent.PRESENT] = blobs
            return
        if ref != top.digest:
            there = self._until_done(executor.submit(self._target.denotes, top.digest, top.media_type))
            if there == top.digest:
                # It has what it names: registries see to that.
                self._results[Sent.PRESENT] = blobs
                self._until_done(executor.submit(self._put, parse(self._image, top), ref))
                return
        self._send_all(executor, blobs)
        for document in children_first(self._image):
            name = ref if document.digest == top.digest else document.digest
            self._until_done(executor.submit(self._put, document, name))

    def _send_all(self, executor: ThreadPoolExecutor, blobs: list[Descriptor]) -> None:
        futures = {executor.submit(self._sender.send, blob): blob for blob in blobs}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                self._results[future.result()].append(futures[future])
            self._check_time()
            self._tell_moved()

    # ------------------------------------------------------------------ documents

    def _put(self, document: Manifest | Index, ref: str) -> None:
        listed = self._target.put_manifest(ref, document.raw, document.media_type, document.digest)
        if document.subject is not None and not listed:
            self._refer(document, document.subject)

    def _refer(self, document: Manifest | Index, subject: Descriptor) -> None:
        """
        Write a referrer into the tag that stands for the referrers API, where a registry has none (spec.md 1.1,
        #pushing-manifests-with-subject). Two at once may lose one; the specification has nothing against it.
        """
        tag = f"{subject.digest.algorithm}-{subject.digest.encoded[:64]}"
        known = self._target.get_manifest(tag, OCI_INDEX)
        entries: list[Any] = []
        if known is not None:
            try:
                content = json.loads(known.raw)
                entries = list(content["manifests"])
                if any(entry["digest"] == document.digest for entry in entries):
                    return
            except (ValueError, LookupError, TypeError) as error:
                raise InvalidManifest(
                    f"{tag} of {self._reference.name} is no index of referrers, and is left as it is"
                ) from error
        kind = document.artifact_type
        if not kind and not isinstance(document, Index):
            kind = document.config.media_type
        entry = {
            "mediaType": document.media_type,
            "digest": document.digest,
            "size": len(document.raw),
            **({"artifactType": kind} if kind else {}),
            **({"annotations": dict(document.annotations)} if document.annotations else {}),
        }
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry]}
        raw = json.dumps(index, separators=(",", ":")).encode()
        self._target.put_manifest(tag, raw, OCI_INDEX, digest_of(raw))

    # ------------------------------------------------------------------ time and talk

    def _until_done(self, future: Future[_T]) -> _T:
        while True:
            done, _ = wait([future], timeout=_TICK_SECONDS)
            if done:
                return future.result()
            self._check_time()

    def _check_time(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise PushCancelled(f"the push to {self._reference.familiar} was cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise PushCancelled(f"the push to {self._reference.familiar} did not end before its deadline")

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._progress(None))

    def _tell_moved(self) -> None:
        if self._on_progress is None:
            return
        for digest, (done, _) in self._sender.moved().items():
            if self._told.get(digest) != done:
                self._told[digest] = done
                self._on_progress(self._progress(digest))

    def _progress(self, blob: Digest | None) -> PushProgress:
        moved = self._sender.moved()
        done, total = moved[blob] if blob is not None else (0, 0)
        present = self._results[Sent.PRESENT] + self._results[Sent.MOUNTED]
        return PushProgress(
            reference=str(self._reference),
            done_bytes=sum(each for each, _ in moved.values()),
            total_bytes=sum(each for _, each in moved.values()),
            present_bytes=sum(each.size for each in present),
            blob=blob,
            blob_done_bytes=done,
            blob_total_bytes=total,
        )


def parse(image: Outgoing, descriptor: Descriptor) -> Manifest | Index:
    """
    A document of *image*.

    Raises:
        ContentError: it is none, or another than its digest says.
    """
    raw = image.documents[descriptor.digest]
    return parse_document(raw, media_type=descriptor.media_type, digest=descriptor.digest)


def children_first(image: Outgoing) -> Iterator[Manifest | Index]:
    """
    The documents of *image*, each once, every one after those that it names.
    """
    seen: set[Digest] = set()

    def walk(descriptor: Descriptor) -> Iterator[Manifest | Index]:
        if descriptor.digest in seen or descriptor.digest not in image.documents:
            return
        seen.add(descriptor.digest)
        document = parse(image, descriptor)
        if isinstance(document, Index):
            for each in document.manifests:
                yield from walk(each)
        yield document

    return walk(image.top)
