"""Errors of requests, and their JSON form (RFC 9457, "Problem Details for HTTP APIs")."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypedDict

from starlette.responses import JSONResponse

from capgpu.errors import CapgpuError

__all__ = ["PROBLEM_TYPE", "Problem", "RequestError", "problem_response"]

PROBLEM_TYPE = "application/problem+json"
#: Reason phrases as RFC 9110 has them; the standard library's differ between versions of Python.
_TITLES = {413: "Content Too Large", 421: "Misdirected Request", 422: "Unprocessable Content"}


class Problem(TypedDict):
    """An error. `detail` is a sentence for the user of the API."""

    title: str
    status: int
    detail: str


class RequestError(CapgpuError):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
        The HTTP status.
    detail : str
        What was expected, what the request had, and the remedy.
    retry_after : int, optional
        Seconds after which another attempt makes sense.

    Attributes
    ----------
    close : bool
        Whether the connection is closed, since the rest of the request is not read; False at first.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.close = False


def problem_response(error: RequestError) -> JSONResponse:
    """Return the response to a request with an error.

    Parameters
    ----------
    error : RequestError
        The error.

    Returns
    -------
    starlette.responses.JSONResponse
        A `Problem` with the error's status.
    """
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.close:
        headers["Connection"] = "close"
    title = _TITLES.get(error.status) or HTTPStatus(error.status).phrase
    problem = Problem(title=title, status=error.status, detail=error.detail)
    return JSONResponse(problem, error.status, headers, PROBLEM_TYPE)
