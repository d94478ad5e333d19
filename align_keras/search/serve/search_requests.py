"""Requests of a search: parameters in the address, and the JSON of the response."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from align_keras.search.query.hits import Hit
from align_keras.search.query.photo_advice import Advice
from align_keras.search.query.query import Query, check_request_texts
from align_keras.search.serve.local_server import encode_json
from align_keras.utils.arguments import check_choice, refuse_unknown
from align_keras.utils.errors import InputError

# Default and maximum number of hits per response, and maximum number of hits in total.
PAGE_HITS = 48
MAX_PAGE_HITS = 200
MAX_HITS = 5_000
SEARCH_PARAMETERS = (
    "text",
    "plus",
    "minus",
    "like",
    "where",
    "duplicates",
    "text_weight",
)

_Number = TypeVar("_Number", int, float)


@dataclasses.dataclass(frozen=True)
class SearchRequest:
    """Parameters of a search.

    Attributes:
        query: `Query`, whose `k` is the number of hits in the response.
        offset: number of hits to skip.
        state: state of the index in an earlier response, or None.
    """

    query: Query
    offset: int
    state: str | None

    @property
    def last(self) -> int:
        """Rank of the last hit in the response."""
        return min(self.offset + self.query.k, MAX_HITS)


def read_search(parameters: QueryParams) -> SearchRequest:
    """Checks the parameters of a search and returns them."""
    allowed = (*SEARCH_PARAMETERS, "index", "k", "offset")
    refuse_unknown("A search", parameters, allowed)
    for name in ("text", "plus", "minus", "like"):
        check_request_texts(name, parameters.getlist(name))
    likes = parameters.getlist("like")
    images = [_read_number("like", text, int, 1, 2**63 - 1) for text in likes]
    weight = None
    if "text_weight" in parameters:
        text = parameters["text_weight"]
        weight = _read_number("text_weight", text, float, 1e-6, 1e6)
    k = parameters.get("k", str(PAGE_HITS))
    offset = parameters.get("offset", "0")
    duplicates = parameters.get("duplicates")
    if duplicates is not None:
        check_choice("duplicates", duplicates, ("0", "1"))
    query = Query(
        text=_read_texts(parameters, "text"),
        image=images or None,
        plus=_read_texts(parameters, "plus"),
        minus=_read_texts(parameters, "minus"),
        where=parameters.get("where"),
        k=_read_number("k", k, int, 1, MAX_PAGE_HITS),
        duplicates=None if duplicates is None else duplicates == "1",
        text_weight=weight,
    )
    first = _read_number("offset", offset, int, 0, MAX_HITS)
    return SearchRequest(query, first, parameters.get("index"))


def _read_texts(parameters: QueryParams, name: str) -> list[str]:
    """Returns the values of a parameter that are not blank."""
    return [text for text in parameters.getlist(name) if text.strip()]


def _read_number(
    name: str, text: str, kind: Callable[[str], _Number], low: float, high: float
) -> _Number:
    number = None
    with contextlib.suppress(ValueError):
        number = kind(text)
    if number is None or not low <= number <= high:
        raise InputError(
            f"{name} must be a number from {low} to {high}. Received: {text!r:.80}. "
            "Correct it."
        )
    return number


def hits_as_json(
    hits: list[Hit],
    search: SearchRequest,
    state: str,
    advice: Advice | None,
    started: float,
) -> str:
    """Returns the JSON of a response.

    Args:
        hits: with one more hit than the response if it exists.
        search: `SearchRequest`.
        state: state of the index.
        advice: `Advice` to use another model, or None.
        started: `time.perf_counter()` at the start of the search.
    """
    return encode_json(
        {
            "index": state,
            "hits": [
                _hit_as_dict(hit, state) for hit in hits[search.offset : search.last]
            ],
            "has_more": len(hits) > search.last and search.last < MAX_HITS,
            "advice": None if advice is None else dataclasses.asdict(advice),
            "seconds": round(time.perf_counter() - started, 4),
        }
    )


def _hit_as_dict(hit: Hit, state: str) -> dict[str, Any]:
    """Returns a hit as a dict for JSON, with the addresses of its image."""
    return {
        **hit.as_json(),
        "image": f"/image/{hit.id}?index={state}",
        "thumbnail": f"/thumbnail/{hit.id}?index={state}",
    }
