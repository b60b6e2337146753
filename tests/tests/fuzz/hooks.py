"""What an answer may never be, beside what the API's description leaves out."""

import json

import schemathesis

# Of this machine, which reaches no registry, of what a server refuses when it is asked for too much, and of what it cannot do.
EXPECTED = {"registry_unreachable", "busy", "unsupported"}


@schemathesis.check
def no_fault(ctx, response, case):
    """No server error but those that tell of something outside."""
    if response.status_code < 500:
        return
    try:
        told = json.loads(response.content)
        code = told.get("error_code") or told["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        code = None
    assert code in EXPECTED, f"{response.status_code} with the code {code}"
