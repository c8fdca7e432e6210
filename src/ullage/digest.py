"""
Digests: what names a blob, and the hasher that verifies it.

The form is that of the OCI image specification 1.1, descriptor.md#digests, as
go-digest reads it: ``algorithm:encoded``, the encoded half in lower-case hex.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from ullage.errors import InvalidReference, UnsupportedContent

__all__ = ["CONTENT_ALGORITHMS", "REFERENCE_ALGORITHMS", "Digest", "Hasher", "digest_of"]

#: Hex digits in the encoded half, by algorithm. A reference may carry any of these.
REFERENCE_ALGORITHMS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
#: What we store under and verify. The specification registers these two alone.
CONTENT_ALGORITHMS: Final = ("sha256", "sha512")

# The grammar of go-digest. `fullmatch` and ASCII classes: `$` would let a newline through.
_ANY_DIGEST = re.compile(r"[A-Za-z0-9]+(?:[.+_-][A-Za-z0-9]+)*:[A-Za-z0-9=_-]+")
_LOWER_HEX = re.compile(r"[0-9a-f]+")


class Digest(str):
    """
    A digest that has been checked: a string with two halves.

    >>> digest = Digest.parse("sha256:" + "ab" * 32)
    >>> digest.algorithm, digest.encoded[:4]
    ('sha256', 'abab')
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """
        Check *text* and give it its type.

        Raises:
            InvalidReference: it is not a digest, or of an algorithm that a
                reference may not carry (sha256, sha384 and sha512 may).
        """
        if not _ANY_DIGEST.fullmatch(text):
            raise InvalidReference("invalid checksum digest format", reference=text)
        algorithm, _, encoded = text.partition(":")
        length = REFERENCE_ALGORITHMS.get(algorithm)
        if length is None:
            raise InvalidReference("unsupported digest algorithm", reference=text)
        if len(encoded) != length:
            raise InvalidReference("invalid checksum digest length", reference=text)
        if not _LOWER_HEX.fullmatch(encoded):
            raise InvalidReference("invalid checksum digest format", reference=text)
        return cls(text)

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """
        Twelve hex digits, for people.
        """
        return self.encoded[:12]


class Hasher:
    """
    Hashes bytes as they pass and says whether they were the promised ones.

    Raises:
        UnsupportedContent: the digest is of an algorithm that is not content's
            (sha384 may stand in a reference, and names nothing that is stored).
    """

    __slots__ = ("_hash", "expected")

    def __init__(self, expected: Digest) -> None:
        if expected.algorithm not in CONTENT_ALGORITHMS:
            raise UnsupportedContent(
                f"unsupported digest algorithm for content: {expected.algorithm}",
                hint="content is named by sha256 or sha512",
            )
        self.expected = expected
        self._hash = hashlib.new(expected.algorithm)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)

    def digest(self) -> Digest:
        return Digest(f"{self.expected.algorithm}:{self._hash.hexdigest()}")

    @property
    def matches(self) -> bool:
        return self.digest() == self.expected


def digest_of(data: bytes, algorithm: str = "sha256") -> Digest:
    """
    The digest of *data*.
    """
    return Digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
