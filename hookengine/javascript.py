"""
JSON texts as JavaScript prints them again: `JSON.stringify(JSON.parse(text))`.

Receivers that check a signature over what they parsed see these bytes. Tested against node.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_LAST_INDEX = 2**32 - 2  # ECMAScript 2025, 6.1.7: an array index
_EXACT_DIGITS = 15  # of an integer that every double holds


def stringify(text: bytes) -> bytes:
    """
    *text*, which is valid JSON without lone surrogates, minified, its members, strings and numbers as JavaScript has them.

    Two kinds of numbers keep the producer's digits, because no receiver could get them back: integers that no double equals,
    and numbers beyond the largest double.
    """
    return orjson.dumps(_DECODER.decode(text.decode()))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members in JavaScript's order: array indices first; of duplicates the last value at the first place."""
    members = dict(pairs)
    indices = [n for n in members if n.isdigit() and _ARRAY_INDEX.fullmatch(n) and int(n) <= _LAST_INDEX]
    if not indices:
        return members
    return {name: members.pop(name) for name in sorted(indices, key=int)} | members


def _integer(digits: str) -> int | orjson.Fragment:
    if len(digits) <= _EXACT_DIGITS:
        return int(digits)
    nearest = float(digits)
    # int() refuses thousands of digits; such numbers are infinite before.
    kept = math.isinf(nearest) or int(digits) != nearest
    return orjson.Fragment((digits if kept else _printed(nearest)).encode())


def _number(literal: str) -> float | orjson.Fragment:
    nearest = float(literal)
    if 1e-4 <= abs(nearest) < 1e15 and not nearest.is_integer():
        return nearest  # as orjson prints it too, in a third of the time
    return orjson.Fragment((literal if math.isinf(nearest) else _printed(nearest)).encode())


def _printed(number: float) -> str:
    """ECMAScript 2025, 6.1.6.1.20, Number::toString: the same digits as Python's, another choice of where they stand."""
    if number == 0:
        return "0"
    mantissa, _, power = repr(number).partition("e")
    if not power:  # from 0.0001 to 1e16
        return mantissa.removesuffix(".0")
    exponent = int(power)
    sign, digits = "-" if number < 0 else "", mantissa.lstrip("-").replace(".", "")
    if 0 < exponent <= 20:
        return sign + digits.ljust(exponent + 1, "0")
    if -6 <= exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return f"{mantissa}e{exponent:+d}"


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_float=_number)
