"""
``df``, ``quota`` and ``gc``: where the bytes are, how many there may be, and which are free to go.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import click

from ullage.cli.opening import StoreCommand, changing, looking
from ullage.cli.output import emit, emit_json, plain, say, short, table
from ullage.sizes import human, parse

if TYPE_CHECKING:
    from ullage.model import Evicted, EvictionPolicy, ImageStatus, ImageStorage, Reclaimed, StorageUsage
    from ullage.service import ImageService

__all__ = ["Size", "df", "gc", "quota"]


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """
    A size on the command line, in bytes.
    """

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            return value if isinstance(value, int) else parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Age(click.ParamType):  # type: ignore[type-arg]
    """
    A length of time: 90s, 10m, 12h, 30d, or plain seconds.
    """

    name = "age"
    _UNITS: ClassVar = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:  # noqa: ANN401
        if isinstance(value, timedelta):
            return value
        number, unit = (value[:-1], value[-1]) if value[-1:] in self._UNITS else (value, "s")
        try:
            age = timedelta(seconds=float(number) * self._UNITS[unit])
        except (ValueError, OverflowError):
            self.fail(f"not a length of time: {value}: 90s, 10m, 12h and 30d are", param, ctx)
        if age < timedelta(0):
            self.fail(f"a negative age: {value}", param, ctx)
        return age


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage df
      ullage df -v                                  what each image takes
      ullage df --json | python3 -m json.tool
      sqlite3 ROOT/ullage.db 'select * from storage_usage'   the same figures""",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Show for each image what it shares and what it takes alone."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with the columns of the view storage_usage."
)
def df(*, verbose: bool, as_json: bool) -> None:
    """
    Show where the bytes are.

    Used and reserved bytes never pass the limit. Content counts once, however many images share it: the last
    lines say what that saves, and what `ullage gc` would free. A directory without a store uses nothing, and
    none is made.
    """
    with looking() as service:
        if service is None:
            usage, reclaimable, images = _nothing(), [], []
        else:
            usage, reclaimable = service.usage(), service.view("reclaimable")
            images = list(_storage_by_image(service)) if verbose else []
    if as_json:
        document = plain(usage)
        if verbose:
            document["reclaimable"] = reclaimable
            document["images"] = [
                {**plain(storage), "repo_tags": list(status.repo_tags)} for storage, status in images
            ]
        emit_json(document)
        return
    _print_usage(usage, reclaimable)
    if verbose:
        emit("")
        table(
            ("IMAGE", "IMAGE ID", "SIZE", "SHARED", "EXCLUSIVE"),
            [
                (
                    _name(status),
                    short(storage.image_id),
                    *map(human, (storage.size, storage.shared_bytes, storage.exclusive_bytes)),
                )
                for storage, status in images
            ],
            right=("SIZE", "SHARED", "EXCLUSIVE"),
        )


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage quota
      ullage quota --max 20GiB
      ullage quota --max 5GiB --evict
      ullage quota --min-free 2GiB""",
)
@click.option(
    "--max",
    "max_bytes",
    type=Size(),
    metavar="SIZE",
    help="Set the limit: plain bytes, or a number with K, M, G, T (powers of 1000: 1M is 1000000 bytes) or "
    "Ki, Mi, Gi, Ti (powers of 1024: 1Mi is 1048576 bytes), with or without a B.",
)
@click.option(
    "--min-free",
    "min_free",
    type=Size(),
    metavar="SIZE",
    help="Set what pulls leave free on the filesystem, whatever the limit says.",
)
@click.option(
    "--evict",
    is_flag=True,
    help="Remove images until what is used fits under the limit: the least recently used first, never one "
    "that is pinned or held.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object with the columns of the view storage_usage, min_free_bytes and evicted.",
)
def quota(*, max_bytes: int | None, min_free: int | None, evict: bool, as_json: bool) -> None:
    """
    Show or set the storage limit.

    The limit is kept in the store, whoever opens it. A pull that does not fit under it is refused before its
    first byte. A limit below what is used admits nothing more, and removes nothing but with --evict.
    """
    evicted: list[Evicted] = []
    if max_bytes is None and min_free is None and not evict:
        with looking() as service:
            usage = _nothing() if service is None else service.usage()
            min_free = 0 if service is None else service.min_free()
    else:
        with changing(max_storage=None if evict else max_bytes) as service:
            if min_free is not None:
                service.set_min_free(min_free)
            if evict:
                limit = service.usage().max_bytes if max_bytes is None else max_bytes
                evicted = service.set_max_storage(limit, evict=True)
            usage, min_free = service.usage(), service.min_free()
    if as_json:
        emit_json({**plain(usage), "min_free_bytes": min_free, "evicted": plain(evicted)})
    else:
        for image in evicted:
            emit(_evicted(image))
        emit(f"limit      {human(usage.max_bytes)}")
        emit(f"used       {human(usage.used_bytes)}")
        emit(f"available  {human(usage.available_bytes)}")
        if min_free:
            emit(f"min free   {human(min_free)}")
    if usage.used_bytes + usage.reserved_bytes > usage.max_bytes:
        over = usage.used_bytes + usage.reserved_bytes - usage.max_bytes
        say(f"warning: {human(over)} over the limit: nothing more is admitted until that much is removed")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage gc
      ullage gc --dry-run
      ullage gc --high 85 --low 80 --min-age 10m --max-age 30d
      sqlite3 ROOT/ullage.db 'select * from reclaimable'   what it would free""",
)
@click.option(
    "--high",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Evict images when more than this share of the limit is used. Default, when any of these options is "
    "given: 85.",
)
@click.option(
    "--low", type=click.FloatRange(0, 100), metavar="PERCENT", help="Evict down to this share. Default: 80."
)
@click.option(
    "--min-age", type=Age(), metavar="AGE", help="Spare what was used within this time. Default: 2m."
)
@click.option("--max-age", type=Age(), metavar="AGE", help="Evict what was not used for this time.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with what was freed.")
def gc(
    *,
    high: float | None,
    low: float | None,
    min_age: timedelta | None,
    max_age: timedelta | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """
    Free what nothing needs.

    That is content which no image names, and what interrupted pulls had received and could go on with. Images
    go only by --high, --low, --min-age or --max-age, which mean what kubelet means by them: the least recently
    used first, never one that is pinned or held. What it says is freed is gone from the disk.
    """
    freed = _collected(_policy(high, low, min_age, max_age), dry_run=dry_run)
    if as_json:
        emit_json(freed)
        return
    for image in freed.images:
        emit(_evicted(image))
    total = human(freed.blob_bytes + freed.tree_bytes + freed.partial_bytes)
    counts = f"{_count(freed.blob_count, 'blob')}, {_count(freed.partial_count, 'partial blob')}"
    if freed.tree_count:
        counts += f", {_count(freed.tree_count, 'tree')}"
    emit(f"{'would free' if dry_run else 'freed'} {total}: {counts}")


def _policy(
    high: float | None, low: float | None, min_age: timedelta | None, max_age: timedelta | None
) -> EvictionPolicy | None:
    if high is None and low is None and min_age is None and max_age is None:
        return None
    from ullage.model import EvictionPolicy  # noqa: PLC0415

    default = EvictionPolicy()
    if high is None and low is None:
        # An age alone is about age: no watermark makes anything else go.
        high = low = 100
    high = default.high_watermark * 100 if high is None else high
    low = min(high, default.low_watermark * 100) if low is None else low
    if low > high:
        raise click.UsageError("--low is above --high", click.get_current_context())
    return EvictionPolicy(
        high_watermark=high / 100,
        low_watermark=low / 100,
        minimum_age=default.minimum_age if min_age is None else min_age,
        maximum_age=max_age,
    )


def _collected(policy: EvictionPolicy | None, *, dry_run: bool) -> Reclaimed:
    with looking() as service:
        if service is None:
            from ullage.model import Reclaimed  # noqa: PLC0415 -- what is light to load is loaded late all the same

            return Reclaimed()
    with changing() as writer:
        return writer.collect(policy, dry_run=dry_run)


def _evicted(image: Evicted) -> str:
    names = " ".join((*image.repo_tags, *image.repo_digests)) or image.image_id
    return f"evicted {names}: {human(image.freed_bytes)} ({image.reason})"


def _nothing() -> StorageUsage:
    """
    The usage of a store that is not there yet: it would start so.
    """
    from ullage.model import DEFAULT_MAX_STORAGE, StorageUsage  # noqa: PLC0415

    return StorageUsage(DEFAULT_MAX_STORAGE, 0, 0, DEFAULT_MAX_STORAGE, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _print_usage(usage: StorageUsage, reclaimable: list[dict[str, Any]]) -> None:
    counts = f"{_count(usage.image_count, 'image')}, {_count(usage.blob_count, 'blob')}"
    lines = [("limit", usage.max_bytes, ""), ("used", usage.used_bytes, counts)]
    if usage.tree_count:
        note = f"of the used, in {_count(usage.tree_count, 'tree')} of {_count(usage.tree_inodes, 'inode')}"
        lines.append(("unpacked", usage.tree_bytes, note))
    if usage.registered_bytes:
        lines.append(("registered", usage.registered_bytes, "of the used, kept elsewhere by a host"))
    lines.append(
        ("reserved", usage.reserved_bytes, "by pulls, running or interrupted" if usage.reserved_bytes else "")
    )
    lines.append(("available", usage.available_bytes, ""))
    if usage.doomed_bytes:
        lines.append(("doomed", usage.doomed_bytes, "beside all that, about to be unlinked"))
    width = max(len(human(size)) for _, size, _ in lines)
    for name, size, note in lines:
        emit(f"{name:<10}  {human(size):>{width}}  {note}".rstrip())
    emit("")
    # Blobs that no image names take room and are shared by nobody; doomed ones are not among the used.
    idle = _total(reclaimable, "blob") - (usage.doomed_bytes - _total(reclaimable, "doomed tree"))
    saved = max(0, usage.logical_bytes - (usage.blob_bytes + usage.registered_bytes - idle))
    emit(f"sharing saves {human(saved)}: alone, the images would take {human(usage.logical_bytes)}")
    free = sum(row["bytes"] for row in reclaimable)
    emit(f"`ullage gc` would free {human(free)}")


def _total(reclaimable: list[dict[str, Any]], kind: str) -> int:
    return sum(row["bytes"] for row in reclaimable if row["kind"] == kind)


def _storage_by_image(service: ImageService) -> list[tuple[ImageStorage, ImageStatus]]:
    by_id = {status.id: status for status in service.list_images()}
    return [(storage, by_id[storage.id]) for storage in service.image_storage() if storage.id in by_id]


def _name(status: ImageStatus) -> str:
    from ullage.reference import Reference  # noqa: PLC0415

    names = (*status.repo_tags, *status.repo_digests)
    if not names:
        return "<none>"
    familiar = Reference.parse(names[0]).familiar
    return (
        familiar
        if len(names) == 1 or not status.repo_tags[1:]
        else f"{familiar} and {len(status.repo_tags) - 1} more"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
