"""`hookengine verify`, `sign` and `completion`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from verbs import Ended, alone, typed

from hookengine.cli import verdict
from hookengine.clock import Clock
from hookengine.errors import VerificationError
from hookengine.receiver import Receiver
from hookengine.schemes import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = '{"type":"order.created","data":{"n":1.10}}'
URL = "https://example.com/hook"
SIGNING = sorted(name for name, schemes in SCHEMES.items() if schemes)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verbs run in an empty directory."""
    alone(monkeypatch, tmp_path)


@pytest.fixture
def signed(cli: Callable[..., Ended]) -> Callable[..., list[str]]:
    """Signs BODY, and returns the headers as options of `verify`."""

    def run(*argv: str) -> list[str]:
        ended = cli("sign", "--secret", SECRET, *argv, BODY)
        assert (0, "") == (ended.status, ended.err)
        return [word for line in ended.out.splitlines() for word in ("--header", line)]

    return run


# verify


@pytest.mark.parametrize("profile", SIGNING)
def test_what_is_signed_verifies(cli: Callable[..., Ended], signed: Callable[..., list[str]], profile: str) -> None:
    """The headers of `sign` satisfy `verify`, whatever the profile."""
    said = ["--profile", profile, "--url", URL, "--method", "PUT"]

    assert Ended(0, "✓ verified\n", "") == cli("verify", "--secret", SECRET, *said, *signed(*said), BODY)


@pytest.mark.parametrize(
    ("changes", "body", "expected"),
    [
        pytest.param(["--secret", OTHER], BODY, "no signature fits: another secret", id="secret"),
        pytest.param(["--secret", SECRET], '{"type": "x"}', "no signature fits: another secret", id="body"),
        pytest.param(["--secret", SECRET], BODY + "\n", "without its final newline: something changed it", id="newline"),
        pytest.param(["--secret", SECRET, "--profile", "svix"], BODY, "there is one of the profile standard", id="profile"),
        pytest.param(["--secret", "whsec_x"], BODY, "is not base64", id="no secret"),
        pytest.param(["--secret", SECRET, "--profile", "clevertap"], BODY, "carry no signature", id="unsigned"),
    ],
)
def test_refusal_says_why_and_what_to_do(
    cli: Callable[..., Ended], signed: Callable[..., list[str]], changes: list[str], body: str, expected: str
) -> None:
    """A signature that does not verify is exit 1, the reason on stdout and advice on stderr."""
    ended = cli("verify", *changes, *signed(), body)

    assert 1 == ended.status
    assert re.match(f"✗ not verified: .*{expected}", ended.out)
    assert ended.err.strip() in verdict.ADVICE.values()


def test_age_is_judged_by_the_tolerance(cli: Callable[..., Ended], signed: Callable[..., list[str]]) -> None:
    """An old request is refused, and passes within a wider tolerance or without one."""
    old = signed("--timestamp", str(Clock().now() // 1000 - 3600))
    statuses = [
        cli("verify", "--secret", SECRET, *old, *tolerance, BODY).status
        for tolerance in ([], ["--tolerance", "2h"], ["--tolerance", "none"])
    ]

    assert [1, 0, 0] == statuses


def test_repeated_header_is_found(cli: Callable[..., Ended], signed: Callable[..., list[str]]) -> None:
    """A header that is given twice with other values is not taken for one."""
    ended = cli("verify", "--secret", SECRET, *signed(), "--header", "webhook-id: other", BODY)

    assert "webhook-id is there more than once" in ended.out


def test_verdict_in_json(cli: Callable[..., Ended], signed: Callable[..., list[str]]) -> None:
    """For programs, the verdict is an object with the stable reason."""
    good = json.loads(cli("verify", "--json", "--secret", SECRET, *signed(), BODY).out)
    bad = cli("verify", "--json", "--secret", SECRET, BODY)

    assert {"verified": True, "reason": None, "detail": None} == good
    assert (1, False, "missing_header") == (bad.status, json.loads(bad.out)["verified"], json.loads(bad.out)["reason"])


def test_one_of_several_secrets_is_enough(cli: Callable[..., Ended], signed: Callable[..., list[str]]) -> None:
    """While a secret rotates both may be given."""
    assert 0 == cli("verify", "--secret", OTHER, "--secret", SECRET, *signed(), BODY).status


@pytest.mark.parametrize("form", ["lines", "object", "pairs"])
def test_headers_may_be_in_a_file(
    cli: Callable[..., Ended], signed: Callable[..., list[str]], tmp_path: Path, form: str
) -> None:
    """Secret, headers and body may each be a file; headers in lines, or in JSON as the API shows them."""
    lines = signed()[1::2]
    pairs = [line.split(": ", 1) for line in lines]
    texts = {"lines": "\r\n".join(lines) + "\r\n\r\n", "object": json.dumps(dict(pairs)), "pairs": json.dumps(pairs)}
    (tmp_path / "headers").write_text(texts[form])
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "body").write_text(BODY)

    assert 0 == cli("verify", "--secret", "@secret", "--headers", "@headers", "@body").status


def test_body_comes_from_standard_input(
    cli: Callable[..., Ended], signed: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BODY, what is verified is standard input."""
    headers = signed()
    typed(monkeypatch, BODY.encode())

    assert 0 == cli("verify", "--secret", SECRET, *headers).status


def test_person_is_told_to_type_the_body(cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the verb says what it waits for."""

    class Keyboard(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard(io.BytesIO(b"x")))

    assert "The body is what you type, up to Ctrl-D.\n" == cli("sign", "--secret", SECRET).err


@pytest.mark.parametrize(
    "argv",
    [
        ["verify", BODY],
        ["verify", "--secret", SECRET, "--profile", "nobody", BODY],
        ["verify", "--secret", SECRET, "--profile", "clearfeed", BODY],
        ["verify", "--secret", SECRET, "--header", "no colon", BODY],
        ["verify", "--secret", SECRET, "--header", ": x", BODY],
        ["verify", "--secret", SECRET, "--headers", "-", BODY],
        ["verify", "--secret", SECRET, "--headers", "[1]", BODY],
        ["verify", "--secret", SECRET, "--headers", "{", BODY],
        ["verify", "--secret", SECRET, "--headers", "@missing", BODY],
        ["verify", "--secret", SECRET, "--tolerance", "soon", BODY],
        ["verify", "--secret", SECRET, "@missing"],
        ["verify", "--secret", "-", "-"],
        ["verify", "--secret", "-", "--secret", "-", BODY],
        ["sign", BODY],
        ["sign", "--secret", SECRET, "--profile", "clearfeed", BODY],
        ["sign", "--secret", SECRET, "--profile", "clevertap", BODY],
        ["sign", "--secret", "x", BODY],
        ["sign", "--secret", SECRET, "--id", "evt\nX-Evil: 1", BODY],
        ["sign", "--secret", SECRET, "--id", "x" * 65, BODY],
        ["sign", "--secret", SECRET, "--id", "", BODY],
        ["sign", "--secret", SECRET, "--id", os.fsdecode(b"\xff"), BODY],
        ["sign", "--secret", SECRET, "--timestamp", "-1", BODY],
        ["sign", "--secret", SECRET, "--timestamp", str(10**25), BODY],
        ["sign", "--secret", SECRET, "--header", "X-A: 1\nX-Evil: 1", BODY],
        ["sign", "--secret", SECRET, "--header", "X A: 1", BODY],
        ["sign", "--secret", SECRET, "--curl", URL + os.fsdecode(b"\xff"), BODY],
        ["sign", "--secret", SECRET, "--curl", URL, "a\0b"],
        ["sign", "--secret", SECRET, "--curl", URL, os.fsdecode(b"\xff")],
        ["sign", "--secret", SECRET, "--curl", URL, "x" * 100_001],
        ["completion", "tcsh"],
    ],
)
def test_usage_is_status_2(cli: Callable[..., Ended], argv: list[str]) -> None:
    """What cannot be meant ends with 2 and says why on stderr."""
    ended = cli(*argv)

    assert (2, "") == (ended.status, ended.out)
    assert ended.err


def test_every_reason_has_advice() -> None:
    """Each reason that VerificationError documents, and the receiver's own, has a sentence on what to do."""
    documented = (VerificationError.__doc__ or "").partition("is stable:")[2].split("\n\n")[0]
    reasons = re.findall(r"[a-z_]+", documented)

    assert {*reasons, "no_secret"} == set(verdict.ADVICE)
    assert verdict.advice("no_match") == verdict.ADVICE["no_match"]


# sign


def test_headers_are_as_asked(cli: Callable[..., Ended]) -> None:
    """Id and time are those given, and further headers follow those of the signature."""
    argv = ("sign", "--secret", SECRET, "--id", "evt_1", "--timestamp", "1700000000", "--header", "X-Own: 1", BODY)
    lines = cli(*argv).out.splitlines()
    found = json.loads(cli(*argv, "--json").out)

    assert ["webhook-id: evt_1", "webhook-timestamp: 1700000000", "X-Own: 1"] == [lines[0], lines[1], lines[3]]
    assert lines == [f"{name}: {value}" for name, value in found.items()]


def test_both_secrets_sign_while_they_rotate(cli: Callable[..., Ended]) -> None:
    """A profile whose header holds several signatures gets one for each secret."""
    found = json.loads(cli("sign", "--json", "--secret", SECRET, "--secret", OTHER, BODY).out)

    assert 2 == len(found["webhook-signature"].split())


async def test_curl_command_sends_what_was_signed(
    cli: Callable[..., Ended], tmp_path: Path, find_program: Callable[[str], str]
) -> None:
    """The command, run by a shell, makes requests that verify: a body in place with quotes and a file of any bytes."""
    find_program("curl")
    (tmp_path / "body").write_bytes(b"\x00\xff\r\n")
    async with Receiver(secret=SECRET, profile="clearfeed") as receiver:
        for body in ('{"it\'s": "€"}\n', "@body"):
            made = cli("sign", "--secret", SECRET, "--profile", "clearfeed", "--curl", f"{receiver.url}/a?b=1", body)
            await asyncio.to_thread(subprocess.run, made.out, shell=True, check=True, capture_output=True)
        requests = receiver.requests

    assert ['{"it\'s": "€"}\n'.encode(), b"\x00\xff\r\n"] == [request.body for request in requests]
    assert [(True, "application/json")] * 2 == [(each.verified, each.header("content-type")) for each in requests]


def test_curl_command_keeps_a_given_media_type(cli: Callable[..., Ended]) -> None:
    """A content type of one's own takes the place of JSON's."""
    words = shlex.split(cli("sign", "--secret", SECRET, "--header", "Content-Type: text/plain", "--curl", URL, "x").out)

    assert ["curl", "--request", "POST"] == words[:3]
    assert ["Content-Type: text/plain"] == [word for word in words if word.lower().startswith("content-type")]
    assert ["--data-raw", "x", URL] == words[-3:]


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(cli: Callable[..., Ended], shell: str) -> None:
    """Each shell gets a script that asks `hookengine` for its verbs."""
    ended = cli("completion", shell)

    assert 0 == ended.status
    assert f"_HOOKENGINE_COMPLETE={shell}_complete" in ended.out


def test_completion_knows_the_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script asks for is answered with the verbs that fit."""
    for name, value in (("_HOOKENGINE_COMPLETE", "bash_complete"), ("COMP_WORDS", "hookengine ver"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-m", "hookengine"], capture_output=True, text=True, check=False)

    assert "plain,verify\n" == done.stdout
