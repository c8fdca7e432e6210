"""
What comes of a push or a copy, and how far it is: values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PushCallback", "PushProgress", "Pushed"]


@dataclass(frozen=True, slots=True)
class PushProgress:
    """
    One step of a push, as handed to ``on_progress``.

    ``done_bytes`` of ``total_bytes`` counts what the registry did not have; ``present_bytes`` is what it had, or took
    from another of its repos. ``blob`` names the blob that moved; it is None in steps that are about the whole.
    """

    reference: str
    done_bytes: int = 0
    total_bytes: int = 0
    present_bytes: int = 0
    blob: str | None = None
    blob_done_bytes: int = 0
    blob_total_bytes: int = 0


PushCallback = Callable[[PushProgress], None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    An image at a registry: what it is called there, and what that cost.

    ``repo_digest`` is ``name@sha256:…``: what it will be called there for ever.
    ``present_blobs`` were there, ``mounted_blobs`` the registry took from another of its repos; ``sent_bytes`` counts
    the blobs that were sent, each once, and not the manifests.
    """

    reference: str
    repo_digest: str
    digest: str
    media_type: str
    sent_blobs: int = 0
    sent_bytes: int = 0
    mounted_blobs: int = 0
    present_blobs: int = 0
