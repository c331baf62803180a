"""Which of aiohttp's two parsers the tests run on."""

from __future__ import annotations

import pytest
from aiohttp.http_parser import HttpResponseParser, HttpResponseParserPy

needs_c_parser = pytest.mark.skipif(
    HttpResponseParser is HttpResponseParserPy, reason="aiohttp's parser in Python is laxer and slower than the one in C"
)
