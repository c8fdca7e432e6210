"""
Image configs: what an image runs on, as whom, and what its layers unpack to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ullage.document import digest_in, list_in, object_in, platform_in, read_object, text_in

if TYPE_CHECKING:
    from ullage.digest import Digest
    from ullage.platform import Platform

__all__ = ["MAX_LAYERS", "ImageConfig", "is_image_config", "parse_config"]

#: Layers of one image. Runtimes stop at a few hundred; artifacts use more.
MAX_LAYERS: Final = 4096

_MEDIA_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_UID = re.compile(r"[+-]?[0-9]{1,40}")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """
    The config of an image: what the store needs of it, and the whole as ``text``.

    ``platform`` is as written; its fields are empty where the config has none.
    """

    platform: Platform
    user: str
    diff_ids: tuple[Digest, ...]
    text: str = field(repr=False)

    @property
    def uid(self) -> int | None:
        """
        CRI's ``Image.uid``: the user, where it is a number; a group after a colon does not count.

        >>> from dataclasses import replace
        >>> config = parse_config(b'{"config": {"User": "1003:users"}}')
        >>> config.uid, replace(config, user="www-data:100").username
        (1003, 'www-data')
        """
        name = self.user.partition(":")[0]
        if not _UID.fullmatch(name):
            return None
        number = int(name)
        return number if -(2**63) <= number < 2**63 else None

    @property
    def username(self) -> str:
        """
        CRI's ``Image.username``: the user, where it is no number.
        """
        return self.user.partition(":")[0] if self.uid is None else ""


def is_image_config(media_type: str) -> bool:
    """
    Content of this type is an image's config; an artifact's config has another. (Go: ``IsConfigType``)
    """
    return media_type in _MEDIA_TYPES


def parse_config(raw: bytes) -> ImageConfig:
    """
    Read an image config. What is missing is empty; what is there has its right type.

    Raises:
        InvalidManifest: it is no such document.
    """
    document = read_object(raw)
    rootfs = object_in(document, "rootfs") or {}
    diff_ids = list_in(rootfs, "diff_ids", "rootfs.", limit=MAX_LAYERS)
    return ImageConfig(
        platform=platform_in(document),
        user=text_in(object_in(document, "config") or {}, "User", "config."),
        diff_ids=tuple(digest_in(each, f"rootfs.diff_ids[{number}]") for number, each in enumerate(diff_ids)),
        text=raw.decode(),
    )
