"""Methods of the clients that no scenario calls to their end, and why. `every_method` takes no other excuse."""

VOLUMES = "volumes of a tenant's own are not served: a template's volumes belong to the user that a sandbox is made for"
SECRETS = "secrets are put into requests by a proxy that opens TLS in the sandbox's name, and there is none"

METHODS = {
    **{f"Volume.{name}": VOLUMES for name in (
        "connect", "destroy", "exists", "get_info", "list", "make_dir", "name", "read_file", "remove", "token",
        "update_metadata", "volume_id", "write_file")},
    **{f"Secret.{name}": SECRETS for name in ("destroy", "exists", "get_info", "list", "update")},
    **{f"SecretPaginator.{name}": SECRETS for name in ("has_next", "next_items", "next_token")},
}
