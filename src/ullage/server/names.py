"""
Which repo of the store a path means.

A mirror is asked in three ways: containerd names the registry in ``ns`` and the rest in the path; people and skopeo put
the whole name into the path; docker sends what is left of a name of Docker Hub. So ``ns`` counts where it is, then a
host at the beginning of the path, and what has neither belongs to one registry, Docker Hub if nobody says otherwise.
Never is a name of one registry answered with another's content, whatever the rest of it is.

A colon cannot stand in a path of the specification: ``registry.example__5000/app`` is ``registry.example:5000/app``.
"""

from __future__ import annotations

import re
from typing import Final

from ullage.errors import InvalidReference
from ullage.reference import Reference

__all__ = ["DEFAULT_REGISTRY", "repo_of", "spelled"]

DEFAULT_REGISTRY: Final = "docker.io"

_WITH_PORT = re.compile(r"(localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)__([0-9]{1,5})")


def repo_of(path: str, namespace: str = "", *, default: str = DEFAULT_REGISTRY) -> str:
    """
    The repo that *path* names, of the registry *namespace* where that is not empty.

    >>> repo_of("library/alpine"), repo_of("ghcr.io/org/app"), repo_of("app", "localhost:5000")
    ('docker.io/library/alpine', 'ghcr.io/org/app', 'localhost:5000/app')

    Raises:
        InvalidReference: it names none.
    """
    if namespace:
        if not _is_host(namespace):
            raise InvalidReference(f"ns is no registry: {namespace}", reference=namespace)
        return _name(f"{namespace}/{path}")
    first, slash, rest = path.partition("/")
    spelled_port = _WITH_PORT.fullmatch(first)
    if slash and spelled_port:
        return _name(f"{spelled_port[1]}:{spelled_port[2]}/{rest}")
    return _name(path if slash and _is_host(first) else f"{default}/{path}")


def spelled(repo: str) -> str:
    """
    The path under which *repo* is asked for by its whole name.

    >>> spelled("localhost:5000/app"), spelled("docker.io/library/alpine")
    ('localhost__5000/app', 'docker.io/library/alpine')
    """
    host, _, rest = repo.partition("/")
    name, colon, port = host.rpartition(":")
    return f"{name}__{port}/{rest}" if colon and "]" not in port else repo


def _is_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def _name(text: str) -> str:
    reference = Reference.parse(text)
    if reference.digest is not None or reference.tag != "latest" or text.endswith(":latest"):
        raise InvalidReference("a name without a tag", reference=text)
    return reference.name
