"""
A pull that is only planned: what would be fetched, does it fit, what would go.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ullage.errors import DiskFull, StorageLimitExceeded
from ullage.model import PlannedBlob, PullPlan
from ullage.recovery import owner_name
from ullage.repository import Claims, Owner
from ullage.resolve import Plan, Resolver, Target

if TYPE_CHECKING:
    from ullage.blobs import BlobFiles
    from ullage.model import AuthConfig
    from ullage.platform import Platform
    from ullage.reference import ImageSpec
    from ullage.registry import RegistryClient
    from ullage.repository import ImageRepository

__all__ = ["plan_pull"]


def plan_pull(
    *,
    repository: ImageRepository,
    files: BlobFiles,
    registry: RegistryClient,
    spec: ImageSpec,
    auth: AuthConfig | None,
    platform: Platform | None,
    evict: bool,
    every: bool,
) -> PullPlan:
    """
    Resolve, and rehearse the admission: the same transaction, rolled back.

    Raises:
        What resolving raises. That it does not fit is an answer, not an exception.
    """
    target = Target.of(spec)
    repo = registry.repo(spec.normalised(), auth=auth)
    plan = Resolver(repository, files, repo, target, platform, every=every, look_only=True).resolve()
    assert isinstance(plan, Plan), "who only looks is not told that it is here"
    wanted = plan.wanted
    lock = files.new_lease()
    refusal = None
    try:
        owner = Owner(lock.token, owner_name(), os.getpid())
        claims = repository.rehearse(owner, target.shown, wanted, files, evict=evict)
    except (StorageLimitExceeded, DiskFull) as error:
        refusal = error.message
        here = frozenset(digest for digest in wanted if repository.ready(digest))
        claims = Claims(present=here, owned=frozenset(wanted) - here, awaited=frozenset())
    finally:
        lock.drop()

    def total(digests: frozenset[str]) -> int:
        return sum(size for digest, size in wanted.items() if digest in digests)

    return PullPlan(
        reference=target.shown,
        digest=plan.naming.digest,
        platform=plan.naming.platform,
        blobs=tuple(
            PlannedBlob(
                digest,
                size,
                "present" if digest in claims.present else "awaited" if digest in claims.awaited else "fetch",
            )
            for digest, size in wanted.items()
        ),
        fetch_bytes=total(claims.owned),
        present_bytes=total(claims.present),
        awaited_bytes=total(claims.awaited),
        fits=refusal is None,
        refusal=refusal,
        evicted=claims.evicted,
    )
