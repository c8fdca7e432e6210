"""
``tag``, ``untag``, ``pin`` and ``unpin``: what images are called, and which of them stay.
"""

from __future__ import annotations

import click

from ullage.cli.failures import describe, tell
from ullage.cli.opening import StoreCommand, changing
from ullage.cli.output import say, short
from ullage.errors import ImageError

__all__ = ["pin", "tag", "unpin", "untag"]


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage tag alpine:3.20 alpine:stable
      ullage tag --force alpine:3.21 alpine:stable   the tag moves""",
)
@click.argument("image")
@click.argument("new")
@click.option("--force", is_flag=True, help="Move the tag if it denotes another image.")
def tag(*, image: str, new: str, force: bool) -> None:
    """
    Give IMAGE one more tag, NEW.

    Nothing is fetched or copied. A tag that denotes another image already is left alone, unless --force moves
    it.
    """
    with changing(image=image) as service:
        status = service.tag_image(image, new, move=force)
    say(f"{new} is {short(status.image_id)}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage untag alpine:stable""",
)
@click.argument("references", metavar="REFERENCE...", nargs=-1, required=True)
def untag(*, references: tuple[str, ...]) -> int:
    """
    Take names away, and leave the images.

    REFERENCE is a tag or a digest reference. An image that loses its last name stays, nameless, until it is
    removed by its id. After a failure the other names are still taken away; the exit code is that of the
    first failure.
    """
    exit_code = 0
    for reference in references:
        try:
            with changing(image=reference) as service:
                status = service.untag_image(reference)
        except ImageError as error:
            failure = describe(error)
            tell(failure, about=reference if len(references) > 1 else "")
            exit_code = exit_code or failure.exit_code
        else:
            left = len(status.repo_tags) + len(status.repo_digests)
            say(f"{reference} is gone; {short(status.image_id)} has {left} name{'s' * (left != 1)} left")
    return exit_code


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage pin alpine:3.20""",
)
@click.argument("image")
def pin(*, image: str) -> None:
    """
    Keep IMAGE from eviction and collection.

    An explicit `ullage rm` is still obeyed.
    """
    with changing(image=image) as service:
        status = service.pin_image(image)
    say(f"{image} ({short(status.image_id)}) is pinned")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage unpin alpine:3.20""",
)
@click.argument("image")
def unpin(*, image: str) -> None:
    """
    Undo `ullage pin`.
    """
    with changing(image=image) as service:
        status = service.unpin_image(image)
    say(f"{image} ({short(status.image_id)}) is not pinned")
