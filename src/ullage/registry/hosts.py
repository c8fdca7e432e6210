"""
Which hosts to ask for a registry's content: containerd's ``hosts.toml``, read.

    DIR/docker.io/hosts.toml            one directory for each registry;
    DIR/registry.example_5000_/         with a port, or `registry.example:5000`;
    DIR/_default/hosts.toml             for all others.

The hosts under ``[host."…"]`` are asked in their order and ``server`` last. It
is containerd 2's format (docs/hosts.md there); docs/registries.md has what of
it we obey. Where containerd ignores a file that does not parse, we refuse to
go on: it may be what keeps a pull off the internet.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from posixpath import normpath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from ullage.errors import InvalidConfiguration
from ullage.registry.endpoint import Origin, base_url, may_speak_http, registry_name
from ullage.registry.proxies import read_proxy
from ullage.registry.route import DIRECT, NO_FILES, TLS, Route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Host", "hosts_of"]

_MAX_FILE_BYTES: Final = 1024 * 1024
_CAPABILITIES: Final = frozenset({"pull", "resolve", "push", "referrers"})
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

_DURATION = re.compile(r"(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|s|us|µs|ns))+")
_PART = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|ns)")
_TOML_LINE = re.compile(r"at line ([0-9]+)")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,8000}")


@dataclass(frozen=True, slots=True)
class Host:
    """
    One host to ask. ``base_url`` ends in ``/v2``, or in what stands for it.

    ``is_mirror`` says that it is another host than the registry, which wants to
    be told whose content it is asked for. ``may_be_plain``: it may turn out to
    speak HTTP, and is on this machine.
    """

    name: str
    base_url: str
    capabilities: frozenset[str] = _CAPABILITIES
    is_mirror: bool = False
    may_be_plain: bool = False
    own_scope: bool = True
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    route: Route = DIRECT


@dataclass(frozen=True, slots=True)
class Defaults:
    """
    What holds for every host of which hosts.toml says nothing else.
    """

    plain_http: bool = False
    tls: TLS = NO_FILES


def hosts_of(domain: str, directory: Path | None, defaults: Defaults) -> tuple[Host, ...]:
    """
    The hosts for the registry of *domain*, in the order in which to ask them.

    Raises:
        InvalidConfiguration: there is something for it in *directory* that we cannot obey.
    """
    found = _find(domain, directory) if directory is not None else None
    if found is None:
        return (_registry(domain, {}, None, defaults),)
    file = found / "hosts.toml"
    text = _read(file)
    if text is None:
        return (_registry(domain, _certificates(found), None, defaults),)
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = _TOML_LINE.search(str(error))
        raise _invalid(file, int(line[1]) if line else None, str(error).partition(" (at")[0]) from error
    source = _Source(file, text)
    mirrors = source.tables(content, "host")
    return (
        *(_host(domain, url, table, source, defaults) for url, table in mirrors.items()),
        _server(domain, content, source, defaults),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """
    The file, to say where in it something is wrong.
    """

    path: Path
    text: str

    def invalid(self, why: str, *, key: str, host: str | None) -> InvalidConfiguration:
        return _invalid(self.path, self._line(key, host), why)

    def tables(self, content: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
        tables = content.get(key, {})
        if not isinstance(tables, dict) or not all(isinstance(each, dict) for each in tables.values()):
            raise self.invalid(f"{key} holds tables, one for each host", key=key, host=None)
        return tables

    def _line(self, key: str, host: str | None) -> int | None:
        """
        Where *key* is set, in the table of *host* where there is one; where that begins, where it is not.
        """
        begun = None if host else 0
        for number, line in enumerate(self.text.splitlines(), 1):
            stripped = line.strip()
            if stripped.startswith("["):
                if host and host in stripped and begun is None:
                    begun = number
                elif begun and host and host not in stripped:
                    break
            if begun is not None and re.match(rf"\[?(?:\"|')?{re.escape(key)}\b", stripped):
                return number
        return begun or None


def _find(domain: str, directory: Path) -> Path | None:
    name, colon, port = domain.rpartition(":")
    spelled = [f"{name}_{port}_"] if colon and port.isdecimal() else []
    for each in (*spelled, domain, "_default"):
        path = directory / each
        try:
            if path.is_dir():
                return path
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot look into {path}: {error.strerror}", path=str(path)
            ) from error
    return None


def _read(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise _invalid(file, None, f"longer than {_MAX_FILE_BYTES} bytes")
        # An empty file is as good as none, as containerd has it.
        return raw.decode() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {file}: {error.strerror}", path=str(file)) from error
    except UnicodeDecodeError as error:
        raise _invalid(file, raw.count(b"\n", 0, error.start) + 1, "not UTF-8") from error


def _certificates(directory: Path) -> dict[str, Any]:
    """
    Docker's way, without a hosts.toml: ``*.crt`` to trust, ``*.cert`` with ``*.key`` to show.
    """
    names = sorted(directory.iterdir())
    return {
        "ca": [str(each) for each in names if each.suffix == ".crt"],
        "client": [[str(each), str(each.with_suffix(".key"))] for each in names if each.suffix == ".cert"],
    }


def _server(domain: str, content: dict[str, Any], source: _Source, defaults: Defaults) -> Host:
    server = content.get("server", "")
    if not isinstance(server, str):
        raise source.invalid("server is a URL", key="server", host=None)
    if not server:
        # The registry can do everything, whatever else stands beside it.
        return _registry(domain, content, source, defaults)
    return _host(domain, server, content, source, defaults, table_of=None)


def _registry(domain: str, settings: dict[str, Any], source: _Source | None, defaults: Defaults) -> Host:
    url = base_url(domain, plain_http=defaults.plain_http)
    plain = may_speak_http(domain) and not defaults.plain_http
    reader = _Settings(settings, source, None, defaults)
    return Host(
        name=domain,
        base_url=f"{url}/v2",
        may_be_plain=plain,
        headers=reader.headers(),
        route=reader.route(),
    )


def _host(
    domain: str,
    url: str,
    settings: dict[str, Any],
    source: _Source,
    defaults: Defaults,
    *,
    table_of: str | None = "host",
) -> Host:
    host = url if table_of else None
    full = url if "://" in url else f"https://{url}"
    try:
        origin = Origin.of(full)
        path = urlsplit(full).path
    except ValueError as error:
        raise source.invalid(f"{error}, for a host", key=url if host else "server", host=host) from error
    if "@" in urlsplit(full).netloc:
        raise source.invalid(
            "a host's URL holds no credentials: log in to it instead",
            key=url if host else "server",
            host=host,
        )
    reader = _Settings(settings, source, host, defaults)
    path = quote(normpath(path), safe="/%:@!$&'()*+,;=~") if path.strip("/") else ""
    overridden = reader.flag("override_path", default=False)
    if not overridden and not path.endswith("/v2"):
        path += "/v2"
    capabilities = reader.capabilities()
    name = _name(origin)
    return Host(
        name=name,
        base_url=f"{origin.scheme}://{_authority(origin)}{path}",
        capabilities=capabilities,
        is_mirror=registry_name(name) != registry_name(domain),
        own_scope=path == "/v2",
        headers=reader.headers(),
        route=reader.route(),
    )


@dataclass(frozen=True, slots=True)
class _Settings:
    """
    One table of settings, each checked as it is read. What we do not know we leave to those who do.
    """

    table: dict[str, Any]
    source: _Source | None
    host: str | None
    defaults: Defaults

    def capabilities(self) -> frozenset[str]:
        stated = frozenset(each.lower() for each in self._strings("capabilities"))
        if unknown := sorted(stated - _CAPABILITIES):
            raise self._invalid("capabilities", f"no capability of a host: {unknown[0]}")
        return stated or _CAPABILITIES

    def route(self) -> Route:
        proxy = self.table.get("proxy", "")
        if not isinstance(proxy, str):
            raise self._invalid("proxy", "proxy is a URL")
        if proxy:
            try:
                read_proxy(proxy, source="hosts.toml")
            except InvalidConfiguration as error:
                raise self._invalid("proxy", error.message) from error
        pairs = self._client()
        tls = TLS(
            ca=(*self.defaults.tls.ca, *(self._path(each) for each in self._strings("ca"))),
            client=pairs or self.defaults.tls.client,
            skip_verify=self.flag("skip_verify", default=self.defaults.tls.skip_verify),
        )
        return Route(tls, proxy, self._dial_timeout())

    def headers(self) -> tuple[tuple[str, str], ...]:
        table = self.table.get("header", {})
        if not isinstance(table, dict):
            raise self._invalid("header", "header is a table")
        headers = []
        for name, value in table.items():
            values = [value] if isinstance(value, str) else value
            if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
                raise self._invalid(name, f"header {name} is a string or an array of strings")
            # What is said twice in HTTP is as good as said once with a comma.
            joined = ", ".join(values)
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(joined):
                raise self._invalid(name, "a header that cannot be sent")
            headers.append((name, joined))
        return tuple(headers)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.table.get(key, default)
        if not isinstance(value, bool):
            raise self._invalid(key, f"{key} is true or false")
        return value

    def _dial_timeout(self) -> float | None:
        text = self.table.get("dial_timeout", "")
        if text == "":
            return None
        seconds = 0.0
        if isinstance(text, str) and _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if not 0 < seconds <= 24 * 3600:
            raise self._invalid("dial_timeout", "dial_timeout is a duration such as 1s, 500ms or 1m30s")
        return seconds

    def _client(self) -> tuple[tuple[str, str], ...]:
        value = self.table.get("client", [])
        pairs = []
        for each in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
            pair = [each, ""] if isinstance(each, str) else each
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(isinstance(part, str) for part in pair)
            ):
                raise self._invalid(
                    "client", "client is a path, an array of paths, or one of pairs of certificate and key"
                )
            pairs.append((self._path(pair[0]), self._path(pair[1]) if pair[1] else ""))
        return tuple(pairs)

    def _strings(self, key: str) -> list[str]:
        value = self.table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise self._invalid(key, f"{key} is a string or an array of strings")
        return values

    def _path(self, text: str) -> str:
        return text if self.source is None else str(self.source.path.parent / text)

    def _invalid(self, key: str, why: str) -> InvalidConfiguration:
        assert self.source is not None, "what we make ourselves is right"
        return self.source.invalid(why, key=key, host=self.host)


def _name(origin: Origin) -> str:
    default = {"http": 80, "https": 443}[origin.scheme]
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == default else f"{host}:{origin.port}"


def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"


def _invalid(file: Path, line: int | None, why: str) -> InvalidConfiguration:
    where = f"{file}:{line}" if line else str(file)
    return InvalidConfiguration(f"{where}: {why}", path=str(file), line=line)
