"""
Bundles started by Debian's crun, with Debian's busybox in them: what runs is what the image says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.images import ImageBuilder, gzip_of
from support.layers import DIRECTORY, SYMLINK, entry, tar
from ullage import BundleOptions
from ullage.digest import digest_of

PROGRAMS = {"crun": "crun", "busybox": "busybox-static", "unshare": "util-linux"}
MISSING = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]

pytestmark = [
    pytest.mark.external,
    # Where CI is set nothing is skipped: the tests run, and fail for want of the programs.
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"apt install {' '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SCRIPT = """
id -u; id -g; id -G; pwd; hostname; echo "$GREETING $HOME"
cat /proc/self/uid_map | tr -s ' '
ls -ln /bin/busybox | tr -s ' ' | cut -d' ' -f1,3,4
cat /etc/upper; ls /etc/gone 2>/dev/null || echo no gone
echo x 2>/dev/null > /tmp/x && echo wrote || echo read-only
echo x 2>/dev/null > /data/x && echo wrote || echo read-only
exit 7
"""


@pytest.fixture
def image(registry, store):
    """
    An image of two layers that prints what it finds.
    """
    lower = tar(
        entry(b"bin", DIRECTORY),
        entry(b"bin/busybox", data=Path(shutil.which("busybox")).read_bytes(), mode=0o4755),
        *(
            entry(b"bin/" + each, SYMLINK, link=b"busybox")
            for each in b"sh id cat ls tr cut hostname".split()
        ),
        entry(b"etc/passwd", data=b"root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\n"),
        entry(b"etc/group", data=b"www:x:34:\nlog:x:4:www\n"),
        entry(b"etc/gone", data=b"gone"),
        entry(b"tmp", DIRECTORY, mode=0o1777),
        entry(b"data", DIRECTORY, mode=0o777),
    )
    upper = tar(entry(b"etc/.wh.gone"), entry(b"etc/upper", data=b"upper\n"))
    builder = ImageBuilder(registry, "box").config(
        User="www",
        Env=["PATH=/bin", "GREETING=hello"],
        Entrypoint=["/bin/sh", "-c"],
        Cmd=[SCRIPT],
        WorkingDir="/srv/app",
        Volumes={"/data": {}},
    )
    for layer in (lower, upper):
        builder.raw_layer(gzip_of(layer), diff_id=digest_of(layer))
    image = builder.push("1")
    store.pull_image(image.reference)
    return image


def started(bundle, tmp_path):
    """
    What the container of a bundle prints, and what it exits with.

    crun 1.8 does not start where both kinds of cgroups are mounted: in a mount namespace of its own it sees one.
    """
    crun = f'exec crun --root "{tmp_path}/crun" --cgroup-manager=disabled run --bundle "{bundle}" ullage-{os.getpid()}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"mount -t cgroup2 none /sys/fs/cgroup; {crun}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_container_is_what_its_image_says(store, image, tmp_path):
    store.bundle(image.reference, tmp_path / "bundle", rootless=False)

    code, lines, said = started(tmp_path / "bundle", tmp_path)

    assert lines == [
        "33", "34", "34 4", "/srv/app", image.image_id[7:19], "hello /srv",
        " 0 0 4294967295",
        "-rwsr-xr-x 0 0",
        "upper", "no gone", "wrote", "wrote",
    ], said  # fmt: skip
    assert code == 7


def test_a_container_is_what_its_caller_wants(store, image, tmp_path):
    options = BundleOptions(
        env=("GREETING=good day",), user="0:4", working_dir="/etc", read_only=True, hostname="box"
    )
    store.bundle(image.reference, tmp_path / "bundle", options=options, rootless=False)

    code, lines, said = started(tmp_path / "bundle", tmp_path)

    assert lines == [
        "0", "4", "4", "/etc", "box", "good day /root",
        " 0 0 4294967295",
        "-rwsr-xr-x 0 0",
        "upper", "no gone", "read-only", "wrote",
    ], said  # fmt: skip
    assert code == 7


def test_a_rootless_container_has_a_user_namespace(store, image, tmp_path):
    options = BundleOptions(user="0:0")
    made = store.bundle(image.reference, tmp_path / "bundle", options=options, rootless=True)

    code, lines, said = started(tmp_path / "bundle", tmp_path)

    assert made.rootless
    assert lines[:2] == ["0", "0"], said
    assert lines[6].startswith(" 0 0 1")
    assert lines[-4:] == ["upper", "no gone", "wrote", "wrote"]
    assert code == 7


def test_a_container_runs_what_stands_after_the_dashes(store, image, tmp_path):
    options = BundleOptions(entrypoint=("/bin/busybox",), args=("echo", "it runs"))
    store.bundle(image.reference, tmp_path / "bundle", options=options, rootless=False)

    assert started(tmp_path / "bundle", tmp_path)[:2] == (0, ["it runs"])
