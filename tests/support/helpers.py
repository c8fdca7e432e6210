"""
Credential helpers for tests: small programs that speak docker's protocol and write down what they were asked.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """#!{python}
import json, pathlib, sys, time
action, said = sys.argv[1], sys.stdin.read()
here = pathlib.Path({here!r})
with (here / "asked").open("a") as log:
    log.write(action + " " + said + "\\n")
kept = json.loads((here / "kept").read_text())
{prelude}
if action == "get":
    if said not in kept:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps({{"ServerURL": said, "Username": kept[said][0], "Secret": kept[said][1]}}))
elif action == "store":
    new = json.loads(said)
    kept[new["ServerURL"]] = [new["Username"], new["Secret"]]
elif action == "erase":
    if said not in kept:
        print("credentials not found in native keychain")
        sys.exit(1)
    del kept[said]
(here / "kept").write_text(json.dumps(kept))
"""


class HelperProgram:
    """
    ``docker-credential-NAME`` in *folder*, which must be on the PATH. ``kept`` is by server: (user name, secret).
    """

    def __init__(
        self, folder: Path, name: str, kept: dict[str, tuple[str, str]] | None = None, *, prelude: str = ""
    ) -> None:
        self.name = name
        self._here = folder / f"of-{name}"
        self._here.mkdir(parents=True)
        (self._here / "kept").write_text(json.dumps(kept or {}))
        program = folder / f"docker-credential-{name}"
        program.write_text(_PROGRAM.format(python=sys.executable, here=str(self._here), prelude=prelude))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def kept(self) -> dict[str, list[str]]:
        return json.loads((self._here / "kept").read_text())

    @property
    def asked(self) -> list[str]:
        log = self._here / "asked"
        return log.read_text().splitlines() if log.exists() else []


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
