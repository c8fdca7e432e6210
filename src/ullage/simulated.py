"""
A registry of the mind: images with a name and a size, and no bytes.

For dry runs and for the tests of a host. Sizes and digests are functions of the name as typed, the same for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ullage.digest import Digest, digest_of

if TYPE_CHECKING:
    from ullage.reference import ImageSpec

__all__ = ["SimulatedRegistry"]

_MIB: Final = 1024 * 1024
_WORD: Final = (1 << 64) - 1


class SimulatedRegistry:
    """
    Stands where a registry client would: every name exists, and pulling it registers its numbers.

    >>> from ullage.reference import ImageSpec
    >>> SimulatedRegistry().estimate_image_size(ImageSpec("nginx", "latest")) // 2**20
    55
    """

    def estimate_image_size(self, spec: ImageSpec) -> int:
        """
        50 MiB, and one more for each byte of the name.
        """
        return 50 * _MIB + len(spec.image_name.encode()) * _MIB

    def compute_digest(self, spec: ImageSpec) -> Digest:
        """
        A digest made of a 64-bit hash of name and tag: deterministic, and of nothing.
        """
        word = 0x5381
        for byte in (spec.image_name + spec.tag).encode():
            word = (word * 33 + byte) & _WORD
        parts = (word, word ^ 0xFF, (word * 7) & _WORD, (word + 42) & _WORD)
        return Digest("sha256:" + "".join(f"{part:016x}" for part in parts))

    def image_id(self, spec: ImageSpec) -> Digest:
        """
        What the image is told apart by: names that collide in `compute_digest` are still two images.
        """
        return digest_of(spec.reference().encode())

    def close(self) -> None:
        """
        Nothing to close.
        """
