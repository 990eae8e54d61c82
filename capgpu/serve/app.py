"""The server's ASGI application: the page, its files, and the JSON API."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, TypeVar, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgpu import __version__
from capgpu.serve.captioner import Settings
from capgpu.serve.documents import Captions, Curve, Gallery, Health, Run, Timing, UploadedPicture
from capgpu.serve.gallery import ORDERS
from capgpu.serve.guard import Guard
from capgpu.serve.openapi import Operation, Parameter, describe, parse_query
from capgpu.serve.pictures import check_picture, discard, read_body
from capgpu.serve.problems import RequestError, problem_response
from capgpu.serve.service import Service

__all__ = ["OPERATIONS", "create_app"]

T = TypeVar("T")
Handler = Callable[[Service, Request, dict[str, Any]], Awaitable[Response]]

#: Files of the page by their paths: only these names are ever looked up.
_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in (
            "theme",
            "main",
            "api",
            "dom",
            "captions",
            "results",
            "attention",
            "camera",
            "gallery",
            "training",
            "chart",
        )
    },
}
_MAX_BEAM = 10
_MAX_PAGE = 200
_STATE_HEADERS = {"Cache-Control": "no-store"}

_UPLOAD_ERRORS = {
    400: "A parameter is not allowed, or there is no picture.",
    403: "The request comes from the page of another site.",
    408: "The picture did not arrive in time.",
    413: "The picture has too many bytes or pixels.",
    415: "The body is not a picture in an accepted format.",
    422: "The picture is damaged.",
    503: "The run has no model yet, or too many requests are in progress; see Retry-After.",
}

_CAPTION = Operation(
    "POST",
    "/api/captions",
    "Caption a picture",
    "The body is a picture file. Beam search finds the most probable captions; with a temperature captions are drawn "
    "at random instead. Requests that arrive together are computed together.",
    Captions,
    (
        Parameter(
            "beam", "Width of the beam search; 1 is greedy decoding. Not with a temperature.", None, int, 1, _MAX_BEAM
        ),
        Parameter(
            "temperature",
            "Draw words at this temperature: below 1 probable words are drawn more often.",
            None,
            float,
            0.05,
            5,
        ),
        Parameter("captions", "Number of captions; at most the width of the beam.", None, int, 1, _MAX_BEAM),
        Parameter("seed", "Seed of the random numbers.", 0, int, 0, 2**32 - 1),
    ),
    _UPLOAD_ERRORS,
    takes_picture=True,
)
_GALLERY = Operation(
    "GET",
    "/api/gallery",
    "Show captions of a split",
    "The model's captions of a split beside the reference captions.",
    Gallery,
    (
        Parameter("split", "Name of the split.", "test", str, maximum=100),
        Parameter("order", "By score, the lowest or highest first, or by index.", "worst", str, choices=ORDERS),
        Parameter("match", "Which captions to show.", "all", str, choices=("all", "right", "near", "wrong")),
        Parameter("query", "Words that occur in the caption or a reference.", "", str, maximum=200),
        Parameter("offset", "Number of pictures to leave out.", 0, int, 0, 10**9),
        Parameter("limit", "Number of pictures.", 48, int, 1, _MAX_PAGE),
    ),
    {400: "A parameter is not allowed.", 404: "There is no such split.", 503: "The run has no model yet."},
)
_PICTURE = Operation(
    "GET",
    "/api/gallery/{split}/{index}/picture",
    "Get a picture of a split",
    "A small version of the picture.",
    "image/png",
    errors={404: "There is no such picture."},
)
_CURVE = Operation("GET", "/api/curve", "Get the loss curve", "Losses of the run, and how far training is.", Curve)
_RUN = Operation("GET", "/api/run", "Describe the run", "Model, data set and limits.", Run)
_HEALTH = Operation(
    "GET",
    "/healthz",
    "Check the server",
    "Succeeds while the server can answer requests.",
    Health,
    errors={503: "The server stops, or its worker has failed."},
)
OPERATIONS = (_CAPTION, _GALLERY, _PICTURE, _CURVE, _RUN, _HEALTH)


def create_app(
    service: Service, *, allowed_hosts: Collection[str] = (), log: Callable[[str], None] | None = None
) -> Starlette:
    """Create the application that serves a run.

    Parameters
    ----------
    service : Service
        The run; closed when the application shuts down.
    allowed_hosts : collection of str
        Host names that the server may be reached by, besides addresses and ``localhost``.
    log : callable, optional
        Called with one line per request.

    Returns
    -------
    starlette.applications.Starlette
        The ASGI application.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    handlers: dict[Operation, Handler] = {
        _GALLERY: _gallery,
        _PICTURE: _picture,
        _CURVE: _curve,
        _RUN: _run,
        _HEALTH: _health,
    }
    description = describe(OPERATIONS)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    routes = [
        *(_static_route(path, *file) for path, file in _STATIC.items()),
        Route("/openapi.json", openapi),
        _upload_route(service),
        *(_route(service, operation, handler) for operation, handler in handlers.items()),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, allowed_hosts=allowed_hosts, log=log)],
        exception_handlers={
            HTTPException: _http_problem,
            RequestError: _request_problem,
            ClientDisconnect: _closed,
            Exception: _internal_problem,
        },
        lifespan=lifespan,
    )


def _route(service: Service, operation: Operation, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        return await handler(service, request, parse_query(operation.parameters, request.query_params.multi_items()))

    return Route(operation.path.replace("{index}", "{index:int}"), endpoint, methods=[operation.method])


def _upload_route(service: Service) -> Route:
    async def endpoint(request: Request) -> Response:
        chunks = service.limits.unless_refused(request.stream())
        try:
            values = parse_query(_CAPTION.parameters, request.query_params.multi_items())
            return await _caption(service, request, chunks, _settings(values))
        except RequestError as error:
            error.close = error.close or not await discard(chunks, service.limits)
            raise

    return Route(_CAPTION.path, endpoint, methods=[_CAPTION.method])


def _static_route(path: str, name: str, media_type: str) -> Route:
    content = (resources.files("capgpu.serve") / "static" / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}

    async def endpoint(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return Route(path, endpoint)


async def _caption(service: Service, request: Request, chunks: AsyncIterator[bytes], settings: Settings) -> Response:
    if not service.can_caption:
        raise RequestError(503, str(service.describe()["model_missing"]), retry_after=10)
    headers = request.headers
    with service.batcher.admit() as submit, service.limits.upload() as body:
        await read_body(chunks, headers.get("content-type"), headers.get("content-length"), body, service.limits)
        content = body.getvalue()
        picture = await run_in_threadpool(check_picture, content, service.limits.max_pixels)
        done = await _result_or_disconnect(request, submit(settings, content))
    return JSONResponse(
        Captions(
            captions=list(done.value),
            picture=UploadedPicture(format=picture.format, width=picture.width, height=picture.height),
            timing=Timing(batch=done.batch, waited=done.waited, computed=done.computed),
        ),
        headers=_STATE_HEADERS,
    )


def _settings(values: dict[str, Any]) -> Settings:
    beam, temperature, captions = values["beam"], values["temperature"], values["captions"]
    if temperature is not None:
        if beam is not None:
            raise RequestError(400, "beam: expected none with a temperature: beam search does not sample.")
        return Settings(captions or 5, 1, temperature, values["seed"])
    beam = beam or max(captions or 1, 5)
    if captions is not None and captions > beam:
        raise RequestError(400, f"captions: expected at most the width of the beam, {beam}, got {captions}.")
    return Settings(captions or beam, beam)


async def _result_or_disconnect(request: Request, future: Future[T]) -> T:
    """Wait for a result; a client that goes away takes its request out of the queue."""
    result = asyncio.ensure_future(asyncio.wrap_future(future))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect
    finally:
        result.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _gallery(service: Service, _: Request, values: dict[str, Any]) -> Response:
    page = await run_in_threadpool(
        service.gallery.page,
        values["split"],
        values["order"],
        values["match"],
        values["query"],
        values["offset"],
        values["limit"],
    )
    return JSONResponse(page, headers=_STATE_HEADERS)


async def _picture(service: Service, request: Request, _: dict[str, Any]) -> Response:
    split, index = request.path_params["split"], request.path_params["index"]
    content = await run_in_threadpool(service.gallery.picture, split, index)
    return Response(content, headers={"Cache-Control": "private, max-age=300"}, media_type="image/png")


async def _curve(service: Service, _: Request, __: dict[str, Any]) -> Response:
    return JSONResponse(await run_in_threadpool(service.curve.read), headers=_STATE_HEADERS)


async def _run(service: Service, _: Request, __: dict[str, Any]) -> Response:
    return JSONResponse(await run_in_threadpool(service.describe), headers=_STATE_HEADERS)


async def _health(service: Service, _: Request, __: dict[str, Any]) -> Response:
    if not service.batcher.alive:
        raise RequestError(503, "The server is stopping, or its worker has failed. Restart it.")
    return JSONResponse(Health(status="ok", version=__version__, model=service.can_caption), headers=_STATE_HEADERS)


async def _request_problem(_: Request, error: Exception) -> Response:
    return problem_response(cast(RequestError, error))


async def _http_problem(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    detail = f"{request.method} {request.url.path[:200]}: expected an address and a method of /openapi.json."
    return problem_response(RequestError(status, detail))


async def _closed(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # the client has disconnected


async def _internal_problem(_: Request, __: Exception) -> Response:
    # Starlette raises the exception again, for the server's log
    return problem_response(RequestError(500, "The server failed; its log has the cause."))
