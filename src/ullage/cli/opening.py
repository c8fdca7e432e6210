"""
Which store: the root, and the service opened on it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ullage.cli.progress import changing_schema
from ullage.errors import ImageNotFound, SchemaTooOld, StoreError, StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ullage.registry import RegistryClient
    from ullage.service import ImageService

__all__ = [
    "StoreCommand",
    "changing",
    "current_root",
    "looking",
    "may_upgrade",
    "rehearsing",
    "root_option",
    "there_is_a_store",
]

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass
class _Chosen:
    """
    The root that the command line named; the last one stands.
    """

    root: Path | None = None


def _choose(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(_Chosen).root = value


def _root_parameter() -> click.Option:
    return click.Option(
        ["--root"],
        metavar="DIR",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_choose,
        help="The store's directory. Default: $ULLAGE_ROOT, else $XDG_DATA_HOME/ullage, else "
        "~/.local/share/ullage.",
    )


def root_option(function: _F) -> _F:
    """
    ``--root`` for the group; `StoreCommand` brings it for a command.
    """
    parameters = getattr(function, "__click_params__", [])
    function.__click_params__ = [*parameters, _root_parameter()]  # type: ignore[attr-defined]
    return function


class StoreCommand(click.Command):
    """
    A command that takes ``--root`` too: it may stand before or after the command's name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- click's
        super().__init__(*args, **kwargs)
        self.params.append(_root_parameter())


def current_root() -> Path:
    """
    The root: as said on the command line, by the environment, or the user's own.

    Raises:
        UsageError: it is the empty string, or nobody can say where the user's data is.
    """
    chosen = click.get_current_context().ensure_object(_Chosen).root
    if chosen is None and os.environ.get("ULLAGE_ROOT"):
        chosen = Path(os.environ["ULLAGE_ROOT"])
    if chosen is not None:
        return chosen
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # noqa: PTH117 -- the XDG specification: a relative path is to be ignored
        data = os.path.expanduser("~/.local/share")  # noqa: PTH111 -- answers "~" where Path raises
    if not os.path.isabs(data):  # noqa: PTH117
        raise click.UsageError("nobody can say where your data directory is: pass --root DIR")
    return Path(data, "ullage")


def there_is_a_store(root: Path) -> bool:
    """
    Whether a store is in *root*. No root is no store.

    Raises:
        StoreError: *root* is no directory, or we may not look into it.
    """
    try:
        if root.exists() and not root.is_dir():
            raise StoreError(
                f"the root is no directory: {root}", hint="choose another one with --root or ULLAGE_ROOT"
            )
        return (root / "ullage.db").exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot look into the root {root}: {reason}") from error


@contextmanager
def looking(
    *, registry: RegistryClient | None = None, upgrades: bool = True
) -> Iterator[ImageService | None]:
    """
    The store, read-only; None when there is none, and nothing is made.

    One of an earlier release is upgraded first, unless the command must not change anything or we may not.
    """
    root = current_root()
    if not there_is_a_store(root):
        yield None
        return
    # Here and not above, as everywhere in this package: the service brings SQLAlchemy, which is most of the
    # start.
    from ullage.service import ImageService  # noqa: PLC0415

    try:
        service = ImageService.open(root, registry=registry, read_only=True)
    except SchemaTooOld as due:
        if not (upgrades and may_upgrade()):
            raise
        try:
            ImageService.open(root, on_upgrade=changing_schema()).close()
        except StoreReadOnly as error:
            raise due from error  # it is for somebody else to do
        service = ImageService.open(root, registry=registry, read_only=True)
    with service:
        yield service


def may_upgrade() -> bool:
    """
    Whether an old store is upgraded by the way. Where that is for somebody to schedule, the environment says so.
    """
    return not os.environ.get("ULLAGE_NO_UPGRADE")


@contextmanager
def changing(
    *,
    image: str | None = None,
    registry: RegistryClient | None = None,
    max_storage: int | None = None,
    unpack: bool = False,
) -> Iterator[ImageService]:
    """
    The store, to change it; made when there is none, unless the command is about an *image* that would be in
    it.

    Raises:
        ImageNotFound: there is no store, so *image* is not in it.
    """
    root = current_root()
    if not there_is_a_store(root) and image is not None:
        raise ImageNotFound(f"no such image: {image}: there is no store in {root}", image=image)
    from ullage.service import ImageService  # noqa: PLC0415

    with ImageService.open(
        root,
        registry=registry,
        max_storage=max_storage,
        unpack=unpack,
        migrate=may_upgrade(),
        on_upgrade=changing_schema(),
    ) as service:
        yield service


@contextmanager
def rehearsing(*, registry: RegistryClient) -> Iterator[ImageService]:
    """
    The store, for what leaves nothing behind; where there is none, an empty one that is gone afterwards.
    """
    if there_is_a_store(current_root()):
        with changing(registry=registry) as service:
            yield service
        return
    import tempfile  # noqa: PLC0415 -- brings more than the whole start-up

    from ullage.service import ImageService  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory(prefix="ullage-rehearsal-") as root,
        ImageService.open(root, registry=registry) as service,
    ):
        yield service
