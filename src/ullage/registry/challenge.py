"""
What a registry asks for: the WWW-Authenticate header, read. No I/O.

RFC 9110 §11.6.1: one header may hold several challenges, and a comma separates
challenges as well as parameters. What does not parse is passed over: a header
from outside is never an exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Challenge", "parse_challenges"]

#: What we read of a header. The longest in the field are below 1 KiB.
_MAX_HEADER_CHARACTERS: Final = 16 * 1024

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SEPARATORS = re.compile(r"[ \t,]*")
# The unquoted value is wider than RFC 9110's token: registries exist that send realm=https://… bare.
_PARAMETER = re.compile(
    rf"({_WORD})[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))(?=[ \t,]|$)", re.DOTALL
)
_SCHEME = re.compile(rf"({_WORD})(?=[ \t,]|$)")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|$))")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """
    One challenge: the scheme and the names of its parameters in lower case.

    ``token68`` is what schemes such as Negotiate send in place of parameters.
    """

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)
    token68: str = ""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """
    The challenges in a WWW-Authenticate header, in its order.

    Of a parameter that is given twice the first counts; one that stands before
    any scheme is dropped.

    >>> [each.scheme for each in parse_challenges('Basic realm="a, b", Bearer realm=x,scope="y"')]
    ['basic', 'bearer']
    """
    text = header[:_MAX_HEADER_CHARACTERS]
    found: list[Challenge] = []
    position = 0
    while position < len(text):
        separators = _SEPARATORS.match(text, position)
        position = separators.end() if separators else position
        if parameter := _PARAMETER.match(text, position):
            if found:
                name, quoted, bare = parameter.groups()
                value = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
                found[-1].parameters.setdefault(name.lower(), value)
            position = parameter.end()
        elif scheme := _SCHEME.match(text, position):
            token68 = _TOKEN68.match(text, scheme.end())
            found.append(Challenge(scheme[1].lower(), {}, token68[1] if token68 else ""))
            position = (token68 or scheme).end()
        else:
            comma = text.find(",", position)
            position = len(text) if comma < 0 else comma + 1
    return tuple(found)
