"""
docs/operations.md: every recipe runs, and a database and blobs of different moments are made to agree.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import ImageBuilder
from support.registry import stall
from support.store import check_root, files_of, query
from support.worker import environment
from ullage import ImageService, RegistryClient, SimulatedRegistry
from ullage.releases import backup

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
RECIPES = dict(
    re.findall(
        r"^## ([^\n]+)\n(?:(?!^## )[^\n]*\n)*?```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL
    )
)
#: What each prints.
PRINTED = {
    "Moving a root": "",
    "Threads": "docker.io/library/nginx:latest\ndocker.io/library/redis:latest\ndocker.io/library/nginx:latest\n",
    "asyncio": "['docker.io/library/nginx:latest', 'docker.io/library/redis:latest']\n",
    "Processes": "['docker.io/library/nginx:latest', 'docker.io/library/redis:latest']\n",
    "fork": "docker.io/library/redis:latest\n",
}


def test_every_recipe_is_run():
    assert set(RECIPES) == set(PRINTED)


@pytest.mark.parametrize("title", PRINTED)
def test_a_recipe_does_what_it_says(title, root, tmp_path):
    """
    Word for word, but for the registry: that is a simulated one.
    """
    code = RECIPES[title].replace('.open("store")', '.open("store", registry=SimulatedRegistry())')
    code = code.replace(
        "from ullage import ImageService", "from ullage import SimulatedRegistry, ImageService"
    )
    (tmp_path / "recipe.py").write_text(code)

    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "recipe.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED[title]
    check_root(tmp_path / ("moved" if title == "Moving a root" else "store"))


def test_the_recipe_for_asyncio_ends_a_pull_that_is_cancelled(store, root, registry):
    image = ImageBuilder(registry, "app").noise_layer(300_000).push("1")
    fault = registry.inject(f"*/blobs/{image.layers[0].digest}", stall(after=100_000))
    recipe: dict[str, object] = {}
    exec(RECIPES["asyncio"].partition("async def main")[0], recipe)

    async def cancelled():
        task = asyncio.create_task(recipe["pull"](store, image.reference))
        await asyncio.get_running_loop().run_in_executor(None, fault.wait_reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    assert store.image_count() == 0
    assert query(root, "SELECT * FROM leases") == []


def open_at(root):
    return ImageService.open(root, registry=RegistryClient(plain_http=True))


@pytest.fixture
def images(registry):
    base = {"base": b"base" * 5000}
    return [
        ImageBuilder(registry, "app").layer(base).noise_layer(3_000, f"app {number}").push(str(number))
        for number in range(3)
    ]


def put_back(copy, root):
    shutil.copy(copy, root / "ullage.db")
    for end in ("-wal", "-shm"):
        (root / f"ullage.db{end}").unlink(missing_ok=True)


def test_an_old_database_beside_newer_blobs_agrees_with_them_after_a_repair(root, images, tmp_path):
    """
    Both ways at once: image 0 went since, and image 2 came.
    """
    with open_at(root) as store:
        store.pull_image(images[0].reference)
        store.pull_image(images[1].reference)
        backup(root, tmp_path / "old.db")
        store.remove_image(images[0].reference)
        store.pull_image(images[2].reference)
    put_back(tmp_path / "old.db", root)

    with open_at(root) as store:
        found = store.check(digests=True)
        mended = store.check(digests=True, repair=True)

        assert {each.problem for each in found} == {"blob row without a file", "file without a row"}
        assert all(each.repaired for each in mended)
        assert store.check(digests=True) == []
        assert {each.image_id for each in store.list_images()} == {images[0].image_id, images[1].image_id}
        store.pull_image(images[2].reference)
    check_root(root)


def test_a_newer_database_beside_older_blobs_agrees_with_them_after_a_repair(root, images, tmp_path):
    with open_at(root) as store:
        store.pull_image(images[0].reference)
        store.pull_image(images[1].reference)
        shutil.copytree(root / "blobs", tmp_path / "blobs")
        store.remove_image(images[0].reference)
        store.pull_image(images[2].reference)
        backup(root, tmp_path / "new.db")
    shutil.rmtree(root / "blobs")
    shutil.copytree(tmp_path / "blobs", root / "blobs")
    put_back(tmp_path / "new.db", root)

    with open_at(root) as store:
        assert all(each.repaired for each in store.check(digests=True, repair=True))

        assert store.check(digests=True) == []
        assert {each.image_id for each in store.list_images()} == {images[1].image_id, images[2].image_id}
        layers = {layer.digest for layer in store.manifest(images[2].reference).layers}
        assert layers == {layer.digest for layer in images[2].layers}
    assert {name.rpartition("/")[2] for name in files_of(root, "blobs")} == {
        blob.digest.encoded for image in images[1:] for blob in image.blobs
    }
    check_root(root)


def test_what_no_registry_has_any_more_is_said_and_removed(root, registry, images):
    with open_at(root) as store:
        store.pull_image(images[0].reference)
        store._files.blob_path(images[0].layers[1].digest).unlink()
    registry.close()

    with open_at(root) as store:
        (problem,) = store.check(repair=True)
        assert (problem.problem, problem.repaired) == ("blob row without a file", False)
        assert "could not be fetched again" in problem.detail
        store.remove_image(images[0].reference)
        assert store.check() == []
    check_root(root)


def test_a_root_that_was_copied_while_nobody_used_it_is_a_store(root, tmp_path):
    with ImageService.open(root, registry=SimulatedRegistry()) as store:
        store.pull_image("nginx")
    shutil.copytree(
        root, tmp_path / "copy", ignore=shutil.ignore_patterns("leases", "trash", "*-wal", "*-shm")
    )

    with ImageService.open(tmp_path / "copy", read_only=True) as store:
        assert store.image_count() == 1
    with ImageService.open(tmp_path / "copy") as store:
        assert store.check() == []
    check_root(tmp_path / "copy")
    assert query(tmp_path / "copy", "SELECT uuid FROM store") == query(root, "SELECT uuid FROM store")
