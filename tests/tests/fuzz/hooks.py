"""What an answer may never be, beside what the API's description leaves out."""

import json

import schemathesis

# Of this machine, which reaches no registry, and of what a server refuses when it is asked for too much.
EXPECTED = {"registry_unreachable", "busy"}


@schemathesis.check
def no_fault(ctx, response, case):
    """No server error but those that tell of something outside."""
    if response.status_code < 500:
        return
    try:
        code = json.loads(response.content)["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    assert code in EXPECTED, f"{response.status_code} with the code {code}"
