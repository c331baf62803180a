"""What to do about a signature that does not verify, in words for somebody who sees it for the first time."""

from __future__ import annotations

ADVICE = {
    "missing_header": "Is it the sender's profile (--profile), and does a proxy in between let the header through?",
    "repeated_header": "Look for a proxy or a framework that adds the header a second time.",
    "unsigned_profile": "Its requests are authenticated by a user name and password, or by OAuth2.",
    "unknown_profile": "Name one of these with --profile.",
    "invalid_secret": "Copy the secret again, as a whole: `hookengine subscription secret ID` shows it.",
    "invalid_timestamp": "The header holds Unix seconds, such as 1700000000: what put something else there?",
    "timestamp_too_old": "Compare the clocks of both machines. One from a log is old by right: --tolerance none lets it pass.",
    "timestamp_too_new": "Compare the clocks of both machines (`date -u`): this one is behind, or the sender's ahead.",
    "no_match": "Compare the secret with `hookengine subscription secret ID`, or where the tenant's signs (clearfeed) with"
    " `hookengine tenant secret show TENANT`. If it is the same, the bytes are not: verify the body as it arrived, before"
    " anything parses it.",
    "malformed_signature": "Is it the sender's profile (--profile)? Otherwise something cut or changed the header on the way.",
    # Only of a subscription: without one, a secret is made where none is given.
    "no_secret": "Where its tenant's secret signs (clearfeed), `hookengine tenant secret set TENANT` makes one: listen then.",
}


def advice(reason: str) -> str:
    """What to do about *reason*, one of VerificationError's or the receiver's `no_secret`."""
    return ADVICE.get(reason, "")
