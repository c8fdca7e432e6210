"""
Our client against Debian's docker-registry, and Debian's skopeo against our loopback registry.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request

import pytest

from support.images import OCI_INDEX, ImageBuilder, json_of
from support.registry import FaultRegistry
from ullage.digest import Digest
from ullage.errors import AuthenticationFailed, ContentError, ManifestUnknown
from ullage.model import AuthConfig
from ullage.reference import Reference
from ullage.registry import FetchedHead

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(
        not (shutil.which("docker-registry") and shutil.which("skopeo")) and not os.environ.get("CI"),
        reason="apt install docker-registry skopeo",
    ),
]

#: alice:wonderland, bcrypt
HTPASSWD = "alice:$2b$04$B9hkvC1p8P73itrS8sCO.OXN9NcQBWP0/0m542glFPhpLMpRr52tG\n"
CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
{auth}
"""


@pytest.fixture(params=["open", "htpasswd"])
def real(request, tmp_path):
    """
    The host of a docker-registry, and the credentials that it wants.
    """
    auth = ""
    if request.param == "htpasswd":
        (tmp_path / "htpasswd").write_text(HTPASSWD)
        auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}"
    (tmp_path / "config.yml").write_text(CONFIG.format(root=tmp_path / "data", auth=auth))
    command = ["docker-registry", "serve", str(tmp_path / "config.yml")]
    log = tmp_path / "log"
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        listening = None
        while listening is None and (line := process.stdout.readline()):
            sink.write(line.encode())
            listening = re.search(r"listening on (127\.0\.0\.1:[0-9]+)", line)
        assert listening, log.read_text()
        yield listening[1], AuthConfig("alice", "wonderland") if auth else None
        process.terminate()
        process.communicate()


def skopeo(*arguments):
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_skopeo_copies_from_our_registry_is_pulled_from_docker_registry(client, real):
    host, auth = real
    with FaultRegistry(auth="token", username="bob", password="builder") as ours:
        image = ImageBuilder(ours, "org/app").layer({"a": b"a"}).noise_layer(300_000).push("1")
        skopeo(
            "copy", "--src-tls-verify=false", "--src-creds=bob:builder", "--dest-tls-verify=false",
            "--preserve-digests", *(["--dest-creds=alice:wonderland"] if auth else []),
            f"docker://{image.reference}", f"docker://{host}/org/app:1",
        )  # fmt: skip

    repo = client.repo(Reference.parse(f"{host}/org/app:1"), auth=auth)
    manifest = image.manifest

    assert repo.head_manifest("1") == FetchedHead(manifest.media_type, manifest.digest, manifest.size)
    assert repo.get_manifest(manifest.digest).raw == manifest.raw
    for blob in (image.config, *image.layers):
        for offset in (0, blob.size // 2):
            with repo.open_blob(blob.digest, size=blob.size, offset=offset) as stream:
                assert stream.offset == offset
                assert b"".join(iter(stream.read, b"")) == blob.raw[offset:]
    with pytest.raises(ManifestUnknown) as caught:
        repo.get_manifest("2")
    assert caught.value.registry_errors == (("MANIFEST_UNKNOWN", "manifest unknown"),)
    with pytest.raises(ContentError, match="BLOB_UNKNOWN"):
        repo.open_blob(Digest("sha256:" + "0" * 64), size=1)


def test_skopeo_sees_the_image_that_we_serve():
    with FaultRegistry() as ours:
        image = (
            ImageBuilder(ours, "app", platform="linux/arm64")
            .layer({"a": b"a"})
            .config(Env=["A=b"])
            .push("1", "2")
        )

        seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{image.reference}"))

    assert seen["Digest"] == image.digest
    assert seen["RepoTags"] == ["1", "2"]
    assert seen["Layers"] == [layer.digest for layer in image.layers]
    assert seen["Architecture"] == "arm64"
    assert seen["Env"] == ["A=b"]


@pytest.mark.parametrize("real", ["htpasswd"], indirect=True)
def test_docker_registry_refuses_whom_it_does_not_know(client, real):
    host, _ = real

    for wrong in (None, AuthConfig("alice", "hunter2")):
        with pytest.raises(AuthenticationFailed) as caught:
            client.repo(Reference.parse(f"{host}/app:1"), auth=wrong).get_manifest("1")
        assert caught.value.registry_errors == (("UNAUTHORIZED", "authentication required"),)


@pytest.mark.parametrize("real", ["open"], indirect=True)
def test_referrers_by_tag_where_there_is_no_api(client, real):
    """
    Debian's docker-registry knows no referrers API: the list stands under a tag, where a client that pushes puts it.
    """
    host, _ = real
    with FaultRegistry() as ours:
        image = ImageBuilder(ours, "app").layer({"a": b"a"}).push("1")
        signature = (
            ImageBuilder(ours, "app")
            .artifact("application/vnd.example.signature")
            .raw_layer(b"signed", media_type="application/vnd.example.signature")
            .manifest_fields(subject=image.manifest.descriptor)
            .push("signature")
        )
        entry = signature.manifest.descriptor | {"artifactType": "application/vnd.example.signature"}
        for each in ("1", "signature"):
            skopeo(
                "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
                f"docker://{ours.host}/app:{each}", f"docker://{host}/app:{each}",
            )  # fmt: skip

    put = urllib.request.Request(
        f"http://{host}/v2/app/manifests/{image.digest.replace(':', '-')}",
        json_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}),
        {"Content-Type": OCI_INDEX},
        method="PUT",
    )
    with urllib.request.urlopen(put, timeout=10) as answer:
        assert answer.status == 201
    repo = client.repo(Reference.parse(f"{host}/app:1"))

    (found,) = repo.referrers(image.digest)
    assert (found.digest, found.artifact_type) == (signature.digest, "application/vnd.example.signature")
    assert repo.referrers(signature.digest) == ()
