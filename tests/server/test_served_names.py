"""
Three ways to name a repo to a mirror, and none to name another one than is meant.
"""

from __future__ import annotations

import pytest

from support.asking import ask
from ullage import InvalidReference
from ullage.server.names import repo_of, spelled


@pytest.mark.parametrize(
    ("path", "namespace", "repo"),
    [
        # containerd: the registry beside the path
        ("library/alpine", "docker.io", "docker.io/library/alpine"),
        ("alpine", "docker.io", "docker.io/library/alpine"),
        ("org/app", "ghcr.io", "ghcr.io/org/app"),
        ("app", "localhost:5000", "localhost:5000/app"),
        ("app", "127.0.0.1:5000", "127.0.0.1:5000/app"),
        ("ghcr.io/app", "quay.io", "quay.io/ghcr.io/app"),
        # skopeo, and people: the whole name
        ("docker.io/library/alpine", "", "docker.io/library/alpine"),
        ("ghcr.io/org/app", "", "ghcr.io/org/app"),
        ("localhost/app", "", "localhost/app"),
        ("localhost:5000/app", "", "localhost:5000/app"),
        ("localhost__5000/app", "", "localhost:5000/app"),
        ("127.0.0.1__5000/app", "", "127.0.0.1:5000/app"),
        ("registry.example__5000/org/app", "", "registry.example:5000/org/app"),
        # docker, and whoever asks a registry: what is left of the name
        ("library/alpine", "", "docker.io/library/alpine"),
        ("alpine", "", "docker.io/library/alpine"),
        ("org/app", "", "docker.io/org/app"),
        ("org__5000/app", "", "docker.io/org__5000/app"),
    ],
)
def test_a_path_names_one_repo(path, namespace, repo):
    assert repo_of(path, namespace) == repo


def test_what_has_no_host_is_of_the_registry_that_is_mirrored():
    assert repo_of("org/app", default="quay.io") == "quay.io/org/app"
    assert repo_of("library/alpine", default="docker.io") == "docker.io/library/alpine"
    assert repo_of("ghcr.io/app", default="quay.io") == "ghcr.io/app"


@pytest.mark.parametrize(
    ("path", "namespace"),
    [("app", "nowhere"), ("app", ".."), ("app", "a b.c"), ("app:latest", ""), ("Ä", "")],
)
def test_what_names_nothing_is_refused(path, namespace):
    with pytest.raises(InvalidReference):
        repo_of(path, namespace)


@pytest.mark.parametrize("repo", ["docker.io/library/alpine", "localhost:5000/a/b", "r.example:443/app"])
def test_a_repo_is_spelled_so_that_it_is_found(repo):
    assert repo_of(spelled(repo)) == repo


def test_every_way_leads_to_the_image_and_to_no_other(server, store, pulled):
    store.tag_image("ghcr.io/team/app:1", "team/app:1")
    store.untag_image("ghcr.io/team/app:1")

    for path in (
        "/v2/team/app/manifests/1",
        "/v2/team/app/manifests/1?ns=docker.io",
        "/v2/docker.io/team/app/manifests/1",
    ):
        assert ask(server, path).body == pulled.manifest.raw
    for path in (
        "/v2/app/manifests/1",
        "/v2/team/app/manifests/1?ns=ghcr.io",
        "/v2/ghcr.io/team/app/manifests/1",
        "/v2/docker.io/app/manifests/1",
    ):
        assert ask(server, path).status == 404
