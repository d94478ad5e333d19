"""Check of the redirects of web servers.

A web server may redirect a request only to `http` and `https` addresses. A redirect to
a loopback, private or other local address is refused, except to the host and port of
the user's address. A public server therefore can't make this machine read from its
local network.
"""

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from align_keras.utils.addresses import server_of
from align_keras.utils.errors import RefusedRedirectError

if TYPE_CHECKING:
    import aiohttp


def redirect_check() -> "aiohttp.TraceConfig":
    """Returns a tracer of aiohttp that checks each redirect."""
    # See OWASP, Server-Side Request Forgery Prevention Cheat Sheet.
    import aiohttp

    async def remember_origin(_: Any, context: Any, request: Any) -> None:
        context.origin = str(request.url)

    async def check(_: Any, context: Any, redirect: Any) -> None:
        headers = redirect.response.headers
        location = headers.get("Location") or headers.get("URI") or ""
        await _check_redirect(context.origin, urljoin(str(redirect.url), location))

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(remember_origin)
    trace.on_request_redirect.append(check)
    return trace


async def _check_redirect(origin: str, target: str) -> None:
    """Raises an error unless the target is public or on the server of the origin."""
    parts = urlsplit(target)
    name = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedRedirectError(
            f"redirects to {name}, but only http and https are supported"
        )
    if server_of(target) == server_of(origin):
        return
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(parts.hostname, None)
    except socket.gaierror:  # The request fails with the same error and is repeated.
        return
    for *_, address in addresses:
        if not _is_public(str(address[0])):
            raise RefusedRedirectError(
                f"redirects to {name}, an address of a local network. Pass this "
                "address directly"
            )


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global
