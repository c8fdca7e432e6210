"""
Which images are pinned by a pattern of names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ullage.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ullage.model import ImageStatus

__all__ = ["Pins"]

#: What people leave out of a name, longest first.
_DEFAULTS: Final = ("docker.io/library/", "docker.io/")


class Pins:
    """
    Shell patterns over names, looked at whenever an image is shown: a tag that moves takes its pin along.

    A pattern fits a tag or digest reference whole or without the tag or digest, in full or as people type it.

    >>> Pins(["registry.k8s.io/pause"]).fits("registry.k8s.io/pause:3.10")
    True

    Raises:
        InvalidReference: a pattern is malformed.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(Pattern.parse(each) for each in patterns)

    def pinned(self, status: ImageStatus) -> bool:
        """
        Whether the store or a pattern pins the image.
        """
        return status.pinned or (
            bool(self._patterns)
            and any(self.fits(each) for each in (*status.repo_tags, *status.repo_digests))
        )

    def fits(self, reference: str) -> bool:
        return any(pattern.matches(form) for form in _forms(reference) for pattern in self._patterns)


def _forms(reference: str) -> Iterator[str]:
    name, at, _ = reference.partition("@")
    if not at:
        head, slash, last = reference.rpartition("/")
        name = head + slash + last.partition(":")[0]
    for form in (reference, name):
        yield form
        for default in _DEFAULTS:
            if form.startswith(default):
                yield form.removeprefix(default)
                break
