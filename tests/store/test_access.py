"""
Who may use an image that is here: whoever could have fetched it, and nobody else gets to know that it is.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from support.images import ImageBuilder, push_index
from support.registry import FaultRegistry, status
from support.store import query
from support.worker import run_python
from ullage import (
    AuthConfig,
    AuthenticationFailed,
    ImageService,
    InvalidConfiguration,
    PullPolicy,
    RegistryClient,
    SimulatedRegistry,
)
from ullage.keyfile import read_or_make_key
from ullage.registry import CredentialFiles

ALICE = AuthConfig(username="alice", password="correct horse")
BOB = AuthConfig(username="bob", password="battery staple")


@pytest.fixture
def private(request):
    """
    A registry that lets Alice in, by Basic credentials or as its test says.
    """
    with FaultRegistry(
        auth=getattr(request, "param", "basic"), username="alice", password="correct horse"
    ) as registry:
        yield registry


@pytest.fixture
def theirs(private):
    return ImageBuilder(private, "theirs").noise_layer(100).push("1")


def rows(root):
    return query(root, "SELECT image_id, repo, credential FROM access ORDER BY 1, 2, 3")


@pytest.mark.parametrize("private", ["basic", "token"], indirect=True)
def test_whoever_fetched_it_may_use_it_and_nobody_else(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)

    for name in (theirs.reference, theirs.repo_digest, theirs.image_id, theirs.image_id[7:20], 1):
        assert store.may_use(name, ALICE), name
        assert not store.may_use(name, BOB), name
        assert not store.may_use(name), name
    ((_, repo, credential),) = rows(root)
    assert repo == theirs.name
    assert len(credential) == 64


def test_no_answer_tells_whether_it_is_here(store, theirs):
    store.pull_image(theirs.reference, auth=ALICE)

    assert store.may_use(theirs.reference, BOB) is store.may_use("registry.example/never:1", BOB) is False


def test_an_image_that_its_registry_serves_to_anybody_is_everybodys(store, root, registry):
    image = ImageBuilder(registry, "public").noise_layer(100).push("1")

    store.pull_image(image.reference, auth=ALICE)

    assert rows(root) == [(1, image.name, "")]
    assert store.may_use(image.reference)
    assert store.may_use(image.reference, BOB)
    assert store.may_use(image.image_id)
    assert not (root / "access.key").exists(), "there was nothing to hash"


def test_a_token_that_is_sold_to_anybody_makes_it_everybodys(store, root):
    with FaultRegistry(auth="token", anonymous=True) as registry:
        image = ImageBuilder(registry, "public").noise_layer(100).push("1")
        store.pull_image(image.reference)

    assert rows(root) == [(1, image.name, "")]
    assert store.may_use(image.reference)


def test_the_forms_of_one_credential_are_one(store, theirs):
    store.pull_image(theirs.reference, auth=ALICE)

    auth = base64.b64encode(b"alice:correct horse").decode()
    assert store.may_use(theirs.reference, AuthConfig(auth=auth))
    assert store.may_use(theirs.reference, AuthConfig(auth=auth, server_address=f"https://{theirs.host}/v2/"))
    assert not store.may_use(theirs.reference, AuthConfig(auth=auth, server_address="registry.example"))
    with pytest.raises(AuthenticationFailed):
        store.may_use(theirs.reference, AuthConfig(auth="%%%"))


@pytest.mark.parametrize("private", ["basic", "token"], indirect=True)
def test_others_get_a_record_of_their_own_by_asking_the_registry(store, root, private, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    fetched = private.blob_bytes_sent
    with pytest.raises(AuthenticationFailed):
        store.pull_image(theirs.reference, auth=BOB, policy=PullPolicy.ALWAYS)
    assert not store.may_use(theirs.reference, BOB)

    private.guard._username, private.guard._password = "bob", "battery staple"
    store.pull_image(theirs.reference, auth=BOB, policy=PullPolicy.ALWAYS)
    store.pull_image(theirs.reference, auth=BOB, policy=PullPolicy.ALWAYS)

    assert store.may_use(theirs.reference, BOB)
    assert store.may_use(theirs.reference, ALICE)
    assert len(rows(root)) == 2
    assert private.blob_bytes_sent == fetched


def test_what_is_ones_in_one_repo_is_not_ones_in_another(store, private, theirs):
    copy = ImageBuilder(private, "copy").noise_layer(100).push("1")
    assert copy.image_id == theirs.image_id
    store.pull_image(theirs.reference, auth=ALICE)
    store.tag_image(theirs.reference, copy.reference)

    assert not store.may_use(copy.reference, ALICE)
    assert store.may_use(copy.image_id, ALICE)

    store.pull_image(copy.reference, auth=ALICE, policy=PullPolicy.ALWAYS)
    assert store.may_use(copy.reference, ALICE)


def test_it_is_on_record_for_every_platform_that_came(store, root, private):
    one = ImageBuilder(private, "both").noise_layer(10, "a")
    other = ImageBuilder(private, "both", platform="linux/s390x").noise_layer(10, "b")
    push_index(private, "both", [one, other], "1")
    store.pull_image(f"{private.host}/both:1", auth=ALICE, platform="all")

    assert {image_id for image_id, _, _ in rows(root)} == {each.id for each in store.list_images()} == {1, 2}
    assert all(store.may_use(each, ALICE) and not store.may_use(each) for each in store.list_images())


def test_a_pull_that_fails_leaves_no_record(store, root, private, theirs):
    private.inject("*/blobs/*", status(404))

    with pytest.raises(Exception, match="does not have"):
        store.pull_image(theirs.reference, auth=ALICE)

    assert rows(root) == []


def test_the_record_goes_with_the_image(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)

    store.remove_image(theirs.reference)

    assert rows(root) == []
    assert not store.may_use(theirs.reference, ALICE)


def test_credentials_of_this_machine_are_on_record_as_any_others(open_store, root, theirs, tmp_path):
    file = tmp_path / "config.json"
    auth = base64.b64encode(b"alice:correct horse").decode()
    file.write_text(json.dumps({"auths": {theirs.host: {"auth": auth}}}))
    client = RegistryClient(plain_http=True, credentials=CredentialFiles(paths=(file,)))
    store = open_store(registry=client)
    store.pull_image(theirs.reference)

    assert store.may_use(theirs.reference, ALICE)
    assert not store.may_use(theirs.reference)


def test_what_a_host_brought_in_is_everybodys(open_store, registry):
    with open_store(registry=SimulatedRegistry()) as store:
        store.register_image("registry.example/mine:1", size=1)
        store.pull_image("simulated")

        assert store.may_use("registry.example/mine:1")
        assert store.may_use("simulated", BOB)


def test_an_image_of_before_there_were_records_is_nobodys_until_it_is_asked_for(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    with closing(sqlite3.connect(root / "ullage.db")) as shell, shell:
        shell.execute("DELETE FROM access")
    assert not store.may_use(theirs.reference, ALICE)

    store.pull_image(theirs.reference, auth=ALICE, policy=PullPolicy.ALWAYS)
    assert store.may_use(theirs.reference, ALICE)


# The key


def test_no_secret_is_in_the_database_and_the_key_is_its_owners(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    store.close()

    database = b"".join(path.read_bytes() for path in root.glob("ullage.db*"))
    key = (root / "access.key").read_bytes()
    assert b"horse" not in database
    assert key not in database
    assert len(key) == 32
    assert stat.S_IMODE((root / "access.key").stat().st_mode) == 0o600


def test_without_the_key_nobody_is_known(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    (root / "access.key").unlink()

    assert not store.may_use(theirs.reference, ALICE)
    store.pull_image(theirs.reference, auth=ALICE, policy=PullPolicy.ALWAYS)
    assert store.may_use(theirs.reference, ALICE)


def test_a_key_that_is_none_is_said(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    (root / "access.key").write_bytes(b"short")

    with pytest.raises(InvalidConfiguration, match="5 bytes, and a key has 32"):
        store.may_use(theirs.reference, ALICE)


@pytest.mark.parametrize("nameless", [True, False])
def test_the_key_is_made_once_however_many_make_it(tmp_path, monkeypatch, nameless):
    if not nameless:  # a kernel that has no such files takes it for this, and says that it is a directory
        monkeypatch.setattr(os, "O_TMPFILE", os.O_CREAT)
    with ThreadPoolExecutor(16) as executor:
        keys = set(executor.map(lambda _: read_or_make_key(tmp_path / "key"), range(64)))

    assert len(keys) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_one_store_may_not_be_compared_with_another(root, open_store, theirs, tmp_path):
    first, second = (
        open_store(),
        ImageService.open(tmp_path / "other", registry=RegistryClient(plain_http=True)),
    )
    with second:
        for each in (first, second):
            each.pull_image(theirs.reference, auth=ALICE)

    assert rows(root) != rows(tmp_path / "other")


def test_another_process_knows_them_too(store, root, theirs):
    store.pull_image(theirs.reference, auth=ALICE)
    code = (
        "import sys\nfrom ullage import AuthConfig, ImageService\n"
        "with ImageService.open(sys.argv[1], read_only=True) as images:\n"
        "    for name in ('alice', 'bob'):\n"
        "        print(images.may_use(sys.argv[2], AuthConfig(username=name, password='correct horse')))"
    )

    assert run_python(code, root, theirs.reference).split() == ["True", "False"]
