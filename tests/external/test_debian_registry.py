"""
The installed command against Debian's docker-registry, filled by Debian's skopeo with Debian's busybox.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, gzip_of, json_of, tar_of
from support.store import check_root
from ullage.digest import Digest, digest_of
from ullage.platform import Platform

PROGRAMS = {"docker-registry": "docker-registry", "skopeo": "skopeo", "busybox": "busybox-static"}
MISSING = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"apt install {' '.join(MISSING)}"),
]

COMMAND = Path(sys.executable).with_name("ullage")
CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@pytest.fixture
def docker_registry(tmp_path):
    """
    The host of a docker-registry that ends with the test.
    """
    (tmp_path / "config.yml").write_text(CONFIG.format(root=tmp_path / "data"))
    command = ["docker-registry", "serve", str(tmp_path / "config.yml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        try:
            listening = None
            while listening is None and (line := process.stdout.readline()):
                said.append(line)
                listening = re.search(r"listening on (127\.0\.0\.1:[0-9]+)", line)
            assert listening, "".join(said)
            yield listening[1]
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def layout(tmp_path):
    """
    An OCI image layout with one image, ``busybox:1``: the binary is its layer.
    """
    directory = tmp_path / "layout"
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(raw: bytes, media_type: str) -> dict[str, object]:
        digest = digest_of(raw)
        (blobs / digest.encoded).write_bytes(raw)
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    tar = tar_of({"bin/busybox": Path(shutil.which("busybox")).read_bytes()})
    layer = add(gzip_of(tar), OCI_LAYER)
    host = Platform.of_host()
    config = {
        "architecture": host.architecture,
        "os": host.os,
        "config": {"Cmd": ["/bin/busybox", "sh"], "User": "nobody"},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": add(json_of(config), OCI_CONFIG),
        "layers": [layer],
    }
    entry = add(json_of(manifest), OCI_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "busybox:1"}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_bytes(
        json_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    )
    return directory


def run(*arguments):
    done = subprocess.run(
        [str(each) for each in arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_what_skopeo_pushed_is_what_ullage_pulls(docker_registry, layout, tmp_path):
    reference, root = f"{docker_registry}/app:1", tmp_path / "store"
    skopeo = ("skopeo", "--insecure-policy")
    run(*skopeo, "copy", f"oci:{layout}:busybox:1", f"docker://{reference}", "--dest-tls-verify=false")
    raw = run(*skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    back = tmp_path / "back"
    run(*skopeo, "copy", "--src-tls-verify=false", f"docker://{reference}", f"dir:{back}")

    image_id = run(COMMAND, "pull", reference, "--plain-http", "--root", root).decode().strip()

    image = json.loads(run(COMMAND, "inspect", reference, "--root", root))
    manifest = json.loads(raw)
    assert image["manifest"]["digest"] == digest_of(raw)
    assert image["repo_digests"] == [f"{docker_registry}/app@{digest_of(raw)}"]
    assert image["image_id"] == image_id == manifest["config"]["digest"]
    assert (image["username"], image["platform"]) == ("nobody", str(Platform.of_host().normalised()))
    assert [layer["digest"] for layer in image["manifest"]["layers"]] == [
        layer["digest"] for layer in manifest["layers"]
    ]
    for descriptor in (manifest["config"], *manifest["layers"]):
        digest = Digest(descriptor["digest"])
        ours = (root / "blobs" / "sha256" / digest.encoded).read_bytes()
        assert ours == (back / digest.encoded).read_bytes()
        assert hashlib.sha256(ours).hexdigest() == digest.encoded
        assert len(ours) == descriptor["size"]
    check_root(root)
