"""
Where a registry is, whose credentials are whose, and where we do not go.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullage.registry.endpoint import (
    Origin,
    base_url,
    is_local,
    printable,
    redirect_target,
    same_registry,
    shown,
)


@pytest.mark.parametrize(
    ("domain", "plain_http", "expected"),
    [
        ("docker.io", False, "https://registry-1.docker.io"),
        ("index.docker.io", False, "https://registry-1.docker.io"),
        ("ghcr.io", False, "https://ghcr.io"),
        ("localhost:5000", False, "https://localhost:5000"),
        ("localhost:5000", True, "http://localhost:5000"),
        ("[::1]:5000", True, "http://[::1]:5000"),
    ],
)
def test_a_domain_is_asked_at_its_registry(domain, plain_http, expected):
    assert base_url(domain, plain_http=plain_http) == expected


@pytest.mark.parametrize(
    ("address", "domain", "same"),
    [
        ("ghcr.io", "ghcr.io", True),
        ("https://ghcr.io", "ghcr.io", True),
        ("https://ghcr.io/v2/", "ghcr.io", True),
        ("GHCR.io", "ghcr.io", True),
        ("ghcr.io:443", "ghcr.io", True),
        ("http://ghcr.io:80", "ghcr.io", True),
        ("ghcr.io:5000", "ghcr.io", False),
        ("127.0.0.1:5000", "127.0.0.1:5000", True),
        ("127.0.0.1:5000", "127.0.0.1:5001", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("registry-1.docker.io", "docker.io", True),
        ("evil.io/ghcr.io", "ghcr.io", False),
        ("ghcr.io.evil.io", "ghcr.io", False),
        ("https://ghcr.io@evil.io/", "ghcr.io", False),
        ("ftp://ghcr.io", "ghcr.io", False),
        ("ghcr.io:x", "ghcr.io", False),
    ],
)
def test_credentials_are_for_the_host_they_name(address, domain, same):
    assert same_registry(address, domain) is same


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("127.1", True),
        ("2130706433", True),
        ("0x7f.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("10.0.0.1", False),
        ("ghcr.io", False),
        ("localhost.example", False),
        ("2001:db8::1", False),
        ("ü", False),
    ],
)
def test_this_machine_is_known_by_all_its_names(host, local):
    assert is_local(host) is local


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v2/b", "https://r.example/v2/b"),
        ("b", "https://r.example/v2/b"),
        ("https://cdn.example/b?sig=1", "https://cdn.example/b?sig=1"),
        ("//cdn.example/b", "https://cdn.example/b"),
    ],
)
def test_a_redirect_is_followed_within_the_web(location, target):
    assert redirect_target("https://r.example/v2/a", location) == target


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://r.example/b", "down to http"),
        ("file:///etc/passwd", "neither http nor https"),
        ("ftp://r.example/b", "neither http nor https"),
        ("data:text/plain,x", "neither http nor https"),
        ("https://:443/b", "no host"),
        ("https://127.0.0.1/b", "to this one"),
        ("https://[::1]/b", "to this one"),
        ("https://169.254.169.254/latest", "to this one"),
        ("https://user:hunter2@[/b", "malformed"),
        ("https://r.example:x/b", "malformed"),
    ],
)
def test_a_redirect_out_of_the_web_is_refused(location, why):
    with pytest.raises(ValueError, match=why) as caught:
        redirect_target("https://r.example/v2/a", location)

    assert "hunter2" not in str(caught.value)


def test_an_origin_is_scheme_host_and_port():
    assert Origin.of("HTTPS://user:secret@R.example/x?y") == ("https", "r.example", 443)
    assert Origin.of("http://[::1]:5000") == ("http", "::1", 5000)


def test_a_shown_url_has_neither_credentials_nor_query():
    assert shown("https://user:secret@r.example:5000/v2/a?sig=secret#secret") == "https://r.example:5000/v2/a"


@given(st.text())
def test_any_url_can_be_shown(url):
    text = shown(url)

    assert text.isprintable()
    assert len(text) <= 512


@given(st.text(), st.integers(1, 100))
def test_text_from_outside_is_made_fit_for_a_terminal(text, limit):
    clean = printable(text, limit)

    assert len(clean) <= limit
    assert clean.isprintable()


@given(st.text())
def test_any_location_is_a_target_or_a_value_error(location):
    try:
        target = redirect_target("https://r.example/v2/a", location)
    except ValueError:
        return

    assert target.startswith("https:")
