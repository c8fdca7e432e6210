"""
Another process with the same store: it does what it is told, one verb at a time.

    with Worker(root) as worker:
        worker.call("pull_image", image.reference)

`Worker.send` and `Worker.answer` are the two halves of `Worker.call`. What it may be told is the verbs of
`ImageService`, and ``hold`` and ``release``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

_TESTS = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """
    That of a child that imports the package and what supports its tests.
    """
    path = os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH"))))
    return dict(os.environ) | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}


def run_python(code: str, *arguments: object, timeout: float = 30.0) -> str:
    """
    What *code* printed, run in a process of its own that ended well.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Refused(Exception):
    """
    The worker's verb raised: the name of the class, and the exception's facts.
    """

    def __init__(self, kind: str, facts: dict[str, Any]) -> None:
        super().__init__(f"{kind}: {facts}")
        self.kind = kind
        self.facts = facts


class Worker:
    """
    A process that has the store open, from entering the with-block on.
    """

    def __init__(self, root: Path, **options: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.worker", str(root), json.dumps(options)],
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def _environment(self) -> dict[str, str]:
        return environment()

    def ready(self) -> None:
        assert self.answer() == "ready"

    def send(self, verb: str, *arguments: object, **options: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, arguments, options]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """
        What the last verb returned.

        Raises:
            Refused: it raised.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker is gone"
        answer = json.loads(line)
        if "raised" in answer:
            raise Refused(answer["raised"], answer["facts"])
        return answer["returned"]

    def call(self, verb: str, *arguments: object, **options: object) -> Any:
        self.send(verb, *arguments, **options)
        return self.answer()

    def kill(self) -> None:
        """
        SIGKILL, and the end of it.
        """
        self._process.kill()
        self._process.wait(10)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def workers(root: Path, count: int, **options: object) -> Any:
    """
    Several workers, started beside each other.
    """
    with contextlib.ExitStack() as stack:
        every = [Worker(root, **options) for _ in range(count)]
        for each in every:
            stack.callback(each.__exit__)
        for each in every:
            each.ready()
        yield every


def _reply(content: object) -> None:
    print(json.dumps(content, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if hasattr(value, "keys") else str(value)


def main() -> None:
    from ullage import ImageService, PullPolicy, RegistryClient  # noqa: PLC0415 -- of the child alone

    root, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    client = RegistryClient(
        plain_http=True, connect_timeout_seconds=2.0, read_timeout_seconds=options.pop("read_timeout", 10.0)
    )
    with contextlib.ExitStack() as held, ImageService.open(root, registry=client, **options) as store:
        _reply({"returned": "ready"})
        for line in sys.stdin:
            verb, arguments, keywords = json.loads(line)
            if "policy" in keywords:
                keywords["policy"] = PullPolicy(keywords["policy"])
            try:
                if verb == "hold":
                    returned: object = held.enter_context(store.hold(*arguments))
                elif verb == "release":
                    returned = held.close()  # type: ignore[func-returns-value]
                else:
                    returned = getattr(store, verb)(*arguments, **keywords)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- it is the caller's to judge
                _reply({"raised": type(error).__name__, "facts": vars(error)})
            else:
                _reply({"returned": returned})


if __name__ == "__main__":
    main()
