"""
Shell patterns over names, as Go's ``path.Match`` reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from ullage.errors import InvalidReference

__all__ = ["Pattern"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """
    ``*`` and ``?`` stop at a slash, ``[a-z]`` and ``[^a-z]`` are classes, and a
    backslash takes the next character as it is.

    >>> Pattern.parse("foo/*/ba[rz]").matches("foo/x/baz")
    True
    """

    chunks: tuple[tuple[bool, re.Pattern[str]], ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        Split *text* at its stars: was there one before the chunk, and the chunk.

        Raises:
            InvalidReference: *text* is malformed.
        """
        chunks: list[tuple[bool, re.Pattern[str]]] = []
        star, expression, position = False, "", 0
        while position < len(text):
            character = text[position]
            if character == "*":
                if expression:
                    chunks.append((star, re.compile(expression, re.DOTALL)))
                star, expression, position = True, "", position + 1
            elif character == "[":
                one, position = _character_class(text, position + 1)
                expression += one
            elif character == "?":
                expression, position = expression + "[^/]", position + 1
            else:
                literal, position = _literal(text, position)
                expression += re.escape(literal)
        if expression or star or not chunks:
            chunks.append((star, re.compile(expression, re.DOTALL)))
        return cls(tuple(chunks))

    def matches(self, name: str) -> bool:
        """
        All of *name* fits.

        Each chunk takes its first place, as in Go: one expression for the whole
        would step back where a class can be a slash, and say yes more often.
        """
        position = 0
        for number, (star, chunk) in enumerate(self.chunks, start=1):
            is_last = number == len(self.chunks)
            if star and is_last and not chunk.pattern:
                return "/" not in name[position:]
            slash = name.find("/", position)
            reach = (len(name) if slash < 0 else slash) if star else position
            for start in range(position, reach + 1):
                match = chunk.match(name, start)
                if match is not None and not (is_last and match.end() < len(name)):
                    position = match.end()
                    break
            else:
                return False
        return position == len(name)


def _character_class(text: str, position: int) -> tuple[str, int]:
    """
    The expression for the class whose bracket opened before *position*, and where it ends.
    """
    negated = text[position : position + 1] == "^"
    position += negated
    ranges = ""
    first = True
    while first or text[position : position + 1] != "]":
        low, position = _bound(text, position)
        high = low
        if text[position : position + 1] == "-":
            high, position = _bound(text, position + 1)
        if low <= high:
            ranges += f"{re.escape(low)}-{re.escape(high)}"
        first = False
    if not ranges:  # only ranges that run backwards: no character is in them
        return ("." if negated else "(?!)"), position + 1
    return f"[{'^' if negated else ''}{ranges}]", position + 1


def _bound(text: str, position: int) -> tuple[str, int]:
    if text[position : position + 1] in ("", "-", "]"):
        _refuse(text)
    return _literal(text, position)


def _literal(text: str, position: int) -> tuple[str, int]:
    if text[position] == "\\":
        position += 1
        if position == len(text):
            _refuse(text)
    return text[position], position + 1


def _refuse(text: str) -> NoReturn:
    hint = "a class is closed with ], and a backslash is not the last"
    raise InvalidReference("syntax error in pattern", reference=text, hint=hint)
