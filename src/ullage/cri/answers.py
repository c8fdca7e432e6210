"""
What the store knows, as CRI's messages say it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from ullage.cri.messages import message
from ullage.errors import ImageNotFound, UnsupportedContent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ullage.cri.pins import Pins
    from ullage.model import ImageStatus
    from ullage.service import ImageService

__all__ = ["as_image", "as_info", "as_usage", "chunks"]

#: A message of a stream ends before these. Clients in Python take 4 MiB by default.
_CHUNK_IMAGES: Final = 500
_CHUNK_BYTES: Final = 1024 * 1024


def as_image(status: ImageStatus, on_disk_bytes: int, pins: Pins) -> Any:  # noqa: ANN401 -- a message
    """
    CRI's ``Image``. The same image gives the same message, byte by byte.
    """
    image = message("runtime.v1.Image")(
        id=status.image_id,
        repo_tags=status.repo_tags,
        repo_digests=status.repo_digests,
        # CRI wants more than zero; an image that the host registered may have none.
        size=max(1, on_disk_bytes),
        username=status.username,
        pinned=pins.pinned(status),
    )
    if status.uid is not None:
        image.uid.value = status.uid
    image.spec.image = status.spec.reference()
    if status.annotations:
        image.spec.annotations.update(status.annotations)
    return image


def chunks(found: list[tuple[ImageStatus, int]], pins: Pins) -> Iterator[bytes]:
    """
    Messages of a stream, encoded: each image in one of them, and none of them empty.
    """
    answer, size = message("runtime.v1.StreamImagesResponse")(), 0
    for status, on_disk_bytes in found:
        image = as_image(status, on_disk_bytes, pins)
        size += image.ByteSize()
        answer.images.append(image)
        if len(answer.images) >= _CHUNK_IMAGES or size >= _CHUNK_BYTES:
            yield answer.SerializeToString()
            answer, size = message("runtime.v1.StreamImagesResponse")(), 0
    if answer.images:
        yield answer.SerializeToString()


def as_info(service: ImageService, status: ImageStatus) -> dict[str, str]:
    """
    What a verbose status adds: ``info`` as other runtimes have it, and ``storage`` with every size. All is JSON.
    """
    info: dict[str, Any] = {"platform": status.platform}
    try:
        config = service.config(status)
        info["imageSpec"] = config
    except (ImageNotFound, UnsupportedContent):
        pass  # gone since, or it has no config: an artifact, or an image whose bytes are kept elsewhere
    storage: dict[str, Any] = {}
    try:
        (figures,) = service.image_storage(status)
        storage = {
            "compressedBytes": figures.size,
            "unpackedBytes": figures.tree_bytes,
            "exclusiveBytes": figures.exclusive_bytes,
            "sharedBytes": figures.shared_bytes,
        }
    except ImageNotFound:
        pass
    storage["pulledAt"] = status.pulled_at.isoformat()
    storage["lastUsedAt"] = status.last_used_at.isoformat()
    return {"info": json.dumps(info), "storage": json.dumps(storage)}


def as_usage(service: ImageService) -> Any:  # noqa: ANN401 -- a message
    """
    CRI's ``FilesystemUsage``: what the images and their trees occupy now, by the store's own counters.
    """
    figures = service.usage()
    usage = message("runtime.v1.FilesystemUsage")(timestamp=time.time_ns())
    usage.fs_id.mountpoint = str(service.root)
    usage.used_bytes.value = figures.blob_bytes + figures.tree_bytes
    usage.inodes_used.value = figures.blob_count + figures.tree_inodes
    return usage
