"""Requests to object stores and web servers: file systems, retries and errors.

fsspec's file systems use the credentials of the provider's tools and read options from
environment variables such as `FSSPEC_S3`. A request with a temporary error (status 500
or 429, a broken or stalled connection) is repeated after a pause, by the file systems
of the stores themselves, and by tenacity for web servers.
"""

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from align_keras.utils.addresses import drop_queries, server_of, with_query
from align_keras.utils.errors import InputError, RefusedRedirectError, needs
from align_keras.utils.progress import say

_EXTRAS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}
# "memory" is fsspec's store in this process for tests.
SCHEMES = (*_EXTRAS, "hf", "memory")
WRITABLE = ("s3", "gs", "memory")
# Maximum number of times that a request to a web server is sent.
TRIES = 6
# Seconds. Each pause between two tries is twice as long as the previous one.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
# Seconds without a byte after which a connection counts as stalled.
STALL_SECONDS = 30.0
# Maximum number of redirects of a request, which is the default of aiohttp.
MAX_REDIRECTS = 10
# Types of errors of connections in Python, aiohttp, botocore, google-auth and httpx.
_CONNECTION_ERRORS = (
    "TimeoutError",
    "ConnectionError",
    "ClientConnectionError",
    "HTTPClientError",
    "TransportError",
)
_Result = TypeVar("_Result")


def file_system(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address and the path in it.

    Raises:
        InputError: if the scheme is not supported or a package isn't installed.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise InputError(
            f"An address must begin with {', '.join(f'{s}://' for s in SCHEMES[:-1])}. "
            f"Received: {url!r}. Copy the files to such an address or to a local "
            "folder."
        )
    with _explained_errors(url):
        fs = _open_file_system(scheme)
    return fs, fs._strip_protocol(with_query(url))


@functools.cache
def _open_file_system(scheme: str) -> Any:
    """Returns the file system of a scheme."""
    # These packages would slow down the start of each search of a local index.
    import logging

    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    seconds = STALL_SECONDS
    if scheme == "s3":
        options["config_kwargs"] = {
            "connect_timeout": seconds,
            "read_timeout": seconds,
        }
    elif scheme in ("http", "https"):
        with needs("http", f"{scheme}:// needs aiohttp and tenacity"):
            import aiohttp
            import tenacity  # noqa: F401

        from align_keras.utils.redirects import redirect_check

        timeout = aiohttp.ClientTimeout(None, sock_connect=seconds, sock_read=seconds)
        traces = [redirect_check()]
        # `trust_env` reads passwords from ~/.netrc.
        options["client_kwargs"] = {
            "timeout": timeout,
            "trace_configs": traces,
            "trust_env": True,
        }
        options["headers"] = {"Accept-Encoding": "identity"}
        options["max_redirects"] = MAX_REDIRECTS
    # These loggers print tracebacks of exceptions that are raised anyway.
    for name in ("gcsfs", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with needs(_EXTRAS.get(scheme, ""), f"{scheme}:// needs its file system of fsspec"):
        return fsspec.filesystem(scheme, **options)


# Web servers whose last request failed every time.
_unreachable_servers: set[tuple[str, int]] = set()


def send(call: Callable[[], _Result], url: str) -> _Result:
    """Calls a function that sends a request.

    Requests to web servers are repeated after temporary errors. The file systems of
    stores do this themselves. After a web server could not be reached, each address of
    it is requested only once, until one succeeds. A long list of images on a dead
    server thus fails quickly.

    Args:
        call: function without arguments.
        url: address for the messages.

    Raises:
        OSError: if the request fails, with the address as its file name.
    """
    with _explained_errors(url):
        return _send_to_web(call, url) if is_web(url) else call()


@contextlib.contextmanager
def _explained_errors(url: str) -> Iterator[None]:
    """Replaces errors of file systems with an `OSError` that names the address."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Each file system raises different types.
        raise _explain(error, url) from error


def is_web(url: str) -> bool:
    """Returns True for an address of a web server."""
    return url.lower().startswith("http")


def _send_to_web(call: Callable[[], _Result], url: str) -> _Result:
    import tenacity

    def failure(state: tenacity.RetryCallState) -> Any:
        return state.outcome and state.outcome.exception()

    def report(state: tenacity.RetryCallState) -> None:
        reason = _detail(failure(state))
        pause, number = state.upcoming_sleep, state.attempt_number
        say(f"{url}: {reason}. Trying again in {pause:.1f} s ({number} of {TRIES - 1})")

    def pause_after(state: tenacity.RetryCallState) -> float:
        pause = tenacity.wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(
            state
        )
        return max(pause, _retry_after(failure(state)))

    server = server_of(url)
    tries = 1 if server in _unreachable_servers else TRIES
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_temporary),
        stop=tenacity.stop_after_attempt(tries),
        wait=pause_after,
        before_sleep=report,
        reraise=True,
    )
    try:
        result = retrying(call)
    except Exception as error:
        if _is_temporary(error) and not _is_incomplete(error):
            _unreachable_servers.add(server)
        raise
    _unreachable_servers.discard(server)
    return result


def _explain(error: Exception, url: str) -> OSError:
    """Returns an `OSError` with a known errno for the error of a file system."""
    for link in _chain(error):
        if isinstance(link, RefusedRedirectError):
            return OSError(errno.EINVAL, str(link), url)
    status = _status(error)
    names = _type_names(error)
    detail = _detail(error)
    if "TooManyRedirects" in names:
        return OSError(errno.EINVAL, f"redirects more than {MAX_REDIRECTS} times", url)
    stale = isinstance(error, OSError) and error.errno == errno.ESTALE
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "the file already exists", url)
    if stale or "FileExpired" in names or status == 412:
        return OSError(errno.ESTALE, "the file changed while it was read", url)
    if names & {"NoCredentialsError", "DefaultCredentialsError"}:
        problem = "no credentials. Log in with the provider's tools, or set "
        problem += """FSSPEC_S3='{"anon": true}' for public files"""
        return PermissionError(errno.EACCES, problem, url)
    if status in (401, 403) or "PermissionError" in names or "Forbidden:" in detail:
        return PermissionError(errno.EACCES, f"access was denied ({detail})", url)
    if _is_incomplete(error):
        return OSError(errno.EIO, "the server sent an incomplete response", url)
    if _is_temporary(error):
        return OSError(errno.EHOSTUNREACH, f"can't be reached ({detail})", url)
    if status in (404, 410) or "FileNotFoundError" in names:
        return FileNotFoundError(errno.ENOENT, "no such file or bucket", url)
    return OSError(errno.EINVAL, detail, url)


def _is_temporary(error: BaseException) -> bool:
    """Returns True if the request may succeed later."""
    status = _status(error)
    names = _type_names(error)
    # aiohttp raises a ClientPayloadError with the status 400 for a broken response.
    if "ClientPayloadError" in names:
        return True
    if status is not None:
        return status in (408, 429) or status >= 500
    return not names.isdisjoint(_CONNECTION_ERRORS)


def _is_incomplete(error: BaseException) -> bool:
    """Returns True if a response ended before its Content-Length."""
    return bool(_type_names(error) & {"ClientPayloadError", "ShortAnswerError"})


def _type_names(error: BaseException) -> set[str]:
    """Returns the names of the types of an error and of its causes."""
    return {base.__name__ for link in _chain(error) for base in type(link).__mro__}


def _detail(error: BaseException) -> str:
    """Returns the status and the text of an error in one line."""
    causes = [link for link in _chain(error) if str(link)]
    cause = causes[-1] if causes else error
    text = " ".join(str(cause).split())
    return drop_queries(f"{_status(error) or type(cause).__name__} {text}")[:100]


class ShortAnswerError(ConnectionError):
    """Error for a response with fewer bytes than requested."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and the exceptions that caused it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of an error or of its first cause with one, or None."""
    return next(filter(None, map(_status_of_type, _chain(error))), None)


def _status_of_type(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore raised the exception.
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None)  # requests and httpx set this.
    # aiohttp sets `status`. gcsfs and urllib set `code`. Errors of aiohttp without a
    # response have the status 0, and reading their `code` prints a warning.
    for name in ("status", "code"):
        if status is None:
            status = getattr(error, name, None)
    text = str(status)
    return int(text) if text.isdecimal() else None


def _retry_after(error: BaseException) -> float:
    """Returns the seconds of the Retry-After header, at most 60, or 0.0 without it."""
    for link in _chain(error):
        text = (getattr(link, "headers", None) or {}).get("Retry-After", "")
        if str(text).isdecimal():
            return min(float(text), 60.0)
    return 0.0


def forget_servers() -> None:
    """Clears the cached file systems and the unreachable servers."""
    _unreachable_servers.clear()
    _open_file_system.cache_clear()
