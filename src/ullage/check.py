"""
Is the store what its rows say? Every broken invariant by its number, and the mending of those that can be mended.

A check runs beside everybody else: it reads rows and files as they are, and whatever looks wrong is looked at again
until it is either explained (a pull had just published it, a sweep had just taken it) or certain. A file may lack a
row only while an ingest announces it; a row may lack its file never.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ullage.digest import CONTENT_ALGORITHMS, Digest, Hasher
from ullage.errors import (
    DiskFull,
    ImageError,
    ImageNotFound,
    InvalidReference,
    StoreBusy,
    StoreError,
    StoreReadOnly,
)
from ullage.ingest import Ingest, translated
from ullage.manifest import MAX_DOCUMENT_BYTES, Manifest, parse_document
from ullage.model import Problem
from ullage.recovery import give_back
from ullage.reference import Reference
from ullage.tree_check import is_strangers, may_look, tree_problems, unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ullage.blobs import BlobFiles
    from ullage.model import AuthConfig
    from ullage.registry import RegistryClient, RegistryRepo
    from ullage.repository import ImageRepository
    from ullage.repository.inspection import BlobRow

__all__ = ["Checker"]

_CHUNK_BYTES: Final = 1 << 20
_PAGE: Final = 1000
_SURE_SECONDS: Final = 1.0
#: What is wrong with a blob that is not for us to look at.
_HIDDEN: Final = os.strerror(errno.EACCES)


class Checker:
    """
    One check of one store.

    Args:
        digests: hash every blob; without it, existence and size are looked at.
        repair: mend what can be mended.
        registry: where a bad blob comes from again, by the names of the images that it belongs to; None to do
            without.
        look_only: the store was opened read-only.
    """

    def __init__(
        self,
        repository: ImageRepository,
        files: BlobFiles,
        *,
        digests: bool,
        repair: bool,
        registry: RegistryClient | None,
        auth: AuthConfig | None,
        look_only: bool,
    ) -> None:
        self._repository = repository
        self._files = files
        self._digests = digests
        self._repair = repair
        self._registry = registry
        self._auth = auth
        self._look_only = look_only

    def run(self) -> list[Problem]:
        """
        What is wrong, in a stable order; `Problem.repaired` says what no longer is, `Problem.unseen` what may be.
        """
        damage = self._repository.damage(thorough=self._digests)
        if damage:
            # Rows of a damaged file cannot be trusted to judge the rest by.
            return [Problem("I12", "the database is damaged", "ullage.db", line) for line in damage]
        with translated():
            problems = [
                *self._dead_leases(),
                *self._rows(),
                *self._blobs(),
                *self._strays(),
                *(self._partials() if self._repair else may_look("I3", "ingest", self._partials())),
                *tree_problems(self._repository, self._files, repair=self._repair),
            ]
        return sorted(problems, key=lambda each: (each.invariant, each.problem, each.object))

    # ------------------------------------------------------------------ rows

    def _dead_leases(self) -> Iterator[Problem]:
        for token in [] if self._look_only else self._repository.tokens():
            lock = self._files.take_lease(token)
            if lock is None:
                continue
            problem = Problem("I8", "lease of a dead owner", token, "its lock is free")
            ended = True
            try:
                if token not in self._repository.tokens():
                    continue  # its owner ended it while we looked
                if self._repair:
                    give_back(self._repository, self._files, token, keep=True)
                    problem = replace(problem, repaired=True)
                else:
                    ended = False
            finally:
                # The file of a lease whose row stands stays, or two could take its lock at once.
                if ended:
                    lock.drop()
                else:
                    lock.let_go()
            yield problem

    def _rows(self) -> Iterator[Problem]:
        found = self._repository.row_problems()
        if not found:
            return
        if self._repair:
            self._repository.repair_rows()
            left = set(self._repository.row_problems())
            yield from (replace(each, repaired=each not in left) for each in found)
        else:
            yield from found

    # ------------------------------------------------------------------ rows and their files

    def _blobs(self) -> Iterator[Problem]:
        after = hidden = 0
        while page := self._repository.blob_rows(after=after, limit=_PAGE):
            after = page[-1].id
            right = []
            for row in page:
                wrong = self._wrong(row)
                if wrong is None:
                    right.append(row.id)
                elif wrong == _HIDDEN:
                    hidden += 1
                # Swept while we looked, or taken back: only a row that still stands has lost its bytes.
                elif self._repository.still_ready(row.id) and self._wrong(row) is not None:
                    yield self._mended(row, Problem("I1", wrong, row.digest, _named(row)))
            if self._digests and not self._look_only:
                # It only informs, and what was found stands.
                with contextlib.suppress(DiskFull, StoreBusy, StoreReadOnly):
                    self._repository.note_verified(right)
        if hidden:
            yield unseen("I1", "blobs", f"{hidden} of them: {_HIDDEN}")

    def _wrong(self, row: BlobRow) -> str | None:
        path = self._files.blob_path(row.digest)
        try:
            size = path.stat().st_size
            if size != row.size:
                return f"blob of {size} bytes, its row says {row.size}"
            if self._digests and not _has_digest(path, row.digest):
                return "blob with other bytes than its digest says"
        except FileNotFoundError:
            return "blob row without a file"
        except OSError as error:
            if is_strangers(self._files, error):
                return _HIDDEN
            return f"blob that cannot be read: {error.strerror}"
        return None

    def _mended(self, row: BlobRow, problem: Problem) -> Problem:
        if not self._repair:
            return problem
        if not row.referenced:
            # Nothing names it: it goes, and takes the row with it.
            self._repository.doom_one(row.id)
            return replace(problem, repaired=True)
        if self._registry is None:
            return replace(problem, detail=f"{problem.detail}; remove the image and pull it again")
        # Written into a lease's file, which nobody touches while we live, and which recovery removes when we do not.
        lock = self._files.new_lease()
        try:
            host, received_bytes = self._fetch_again(row, lock.path)
            self._repository.replace_file(
                row.id,
                lambda: self._files.replace(row.digest, lock.path),
                received_bytes=received_bytes,
                host=host,
            )
        except ImageError as error:
            return replace(problem, detail=f"{problem.detail}; could not be fetched again: {error}")
        finally:
            lock.drop()
        return replace(problem, repaired=True)

    def _fetch_again(self, row: BlobRow, path: Path) -> tuple[str | None, int]:
        """
        The blob's bytes into *path*, verified and synced, from the first registry that still has them.

        Returns the host that sent them, and how many bytes came in all.
        """
        assert self._registry is not None
        sources = self._repository.sources_of(row.id)
        failure: ImageError = ImageNotFound("no reference says where it came from", image=row.digest)
        for reference in sources.references:
            try:
                repo = self._registry.repo(Reference.parse(reference), auth=self._auth)
                with translated(), Ingest(path, row.digest, row.size) as ingest:
                    ingest.restart()
                    if sources.is_document:
                        ingest.write(repo.get_manifest(row.digest).raw)
                    else:
                        urls = self._urls(repo, row.digest, sources.manifests)
                        with repo.open_blob(row.digest, size=row.size, urls=urls) as stream:
                            while chunk := stream.read(_CHUNK_BYTES):
                                ingest.write(chunk)
                    ingest.finish()
            except ImageError as error:
                failure = error
            else:
                return repo.served_by.get(row.digest), sum(repo.received_from.values())
        raise failure

    def _urls(self, repo: RegistryRepo, digest: Digest, named_by: Mapping[Digest, str]) -> tuple[str, ...]:
        """
        Where else a layer is, by the word of the manifests that name it: what a pull of them would ask, too.
        """
        found: dict[str, None] = {}
        for manifest, media_type in named_by.items():
            try:
                try:
                    raw = self._files.read(manifest, max_bytes=MAX_DOCUMENT_BYTES)
                except StoreError:  # as bad as the layer, and mended after it
                    raw = repo.get_manifest(manifest).raw
                parsed = parse_document(raw, media_type=media_type, digest=manifest)
            except ImageError:
                continue  # the registry has the layer, or says that it has not
            if isinstance(parsed, Manifest):
                found.update(
                    (url, None) for each in parsed.layers if each.digest == digest for url in each.urls
                )
        return tuple(found)

    # ------------------------------------------------------------------ files and their rows

    def _strays(self) -> Iterator[Problem]:
        for algorithm in CONTENT_ALGORITHMS:
            yield from self._looked(f"blobs/{algorithm}", algorithm)
        yield from self._looked("ingest", None)

    def _looked(self, below: str, algorithm: str | None) -> Iterator[Problem]:
        strays = self._strays_in(self._files.root / below, algorithm)
        return strays if self._repair else may_look("I2", below, strays)

    def _strays_in(self, directory: Path, algorithm: str | None) -> Iterator[Problem]:
        with os.scandir(directory) as entries:
            for names in _batches(entry.name for entry in entries):
                explained = self._repository.explained(
                    {digest for name in names for digest in _digests_of(name, algorithm)},
                    ingests_only=algorithm is None,
                )
                for name in names:
                    if not explained & set(_digests_of(name, algorithm)):
                        yield from self._stray(directory / name, algorithm)

    def _stray(self, path: Path, algorithm: str | None) -> Iterator[Problem]:
        digests = set(_digests_of(path.name, algorithm))
        # The row may have come, or the file gone, since the directory was read; and either again while we ask.
        seen = _identity_of(path)
        if seen is None or self._repository.explained(digests, ingests_only=algorithm is None):
            return
        if _identity_of(path) != seen:
            return
        problem = Problem(
            "I2", "file without a row", str(path.relative_to(self._files.root)), "garbage, never damage"
        )
        if self._repair:
            removed = self._repository.remove_stray(
                digests, lambda: self._files.trash_stray(path), ingests_only=algorithm is None
            )
            self._files.empty_trash()
            if not removed:
                return  # a row explains it by now
            problem = replace(problem, repaired=True)
        yield problem

    def _partials(self) -> Iterator[Problem]:
        for digest, size, received in self._repository.resumable():
            here = _size_of(self._files.ingest_path(digest))
            if here == received or not self._is_torn(digest, received):
                continue  # right, taken over while we looked, or just being given up
            problem = Problem(
                "I3",
                "partial blob of another size",
                digest,
                f"{here} bytes here, its row says {received} of {size}",
            )
            if self._repair:
                self._repository.discard_partial(digest, self._files.discard)
                self._files.empty_trash()
                problem = replace(problem, repaired=True)
            yield problem

    def _is_torn(self, digest: Digest, received: int) -> bool:
        """
        Whether a partial blob has another size than its row says, for certain.

        Whoever gives one up moves its file aside before the row goes, in one transaction: only with the gate locked is
        nobody in the middle of that. Without the right to lock it, a second is much longer than that takes.
        """
        path = self._files.ingest_path(digest)
        if not self._look_only:
            return self._repository.is_torn(digest, received, lambda: _size_of(path))
        until = time.monotonic() + _SURE_SECONDS
        while _size_of(path) != received and self._repository.resumable_bytes(digest) == received:
            if time.monotonic() > until:
                return True
            time.sleep(_SURE_SECONDS / 20)
        return False


def _named(row: BlobRow) -> str:
    return f"{row.size} bytes" + ("" if row.referenced else ", named by nothing")


def _has_digest(path: Path, digest: Digest) -> bool:
    hasher = Hasher(digest)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.matches


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digests_of(name: str, algorithm: str | None) -> list[Digest]:
    """
    The digests that a file of this name can be of; none for a name that we never give.
    """
    found = []
    for each in CONTENT_ALGORITHMS if algorithm is None else (algorithm,):
        try:
            found.append(Digest.parse(f"{each}:{name}"))
        except InvalidReference:
            continue
    return found


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for name in names:
        batch.append(name)
        if len(batch) == _PAGE:
            yield batch
            batch = []
    if batch:
        yield batch
