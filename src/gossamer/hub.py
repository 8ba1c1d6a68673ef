"""Whether the Hugging Face hub can be reached, asked before its own client tries for long."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlparse


def offline_reason() -> str | None:
    """Why the hub cannot be reached ("HF_HUB_OFFLINE is set", "no network ..."), or None where it can be tried.

    Looks for the hub's address for at most three seconds, because the hub's own client repeats for much longer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if urllib.request.getproxies():
        return None  # behind a proxy the hub's address may be unknown here, and yet reachable
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError as error:
        return f"there is no network connection to the hub ({error})"
    return None
