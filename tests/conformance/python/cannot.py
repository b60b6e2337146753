"""Methods of the clients that no scenario calls, and why. `every_method` takes no other excuse."""

METHODS = {
}
