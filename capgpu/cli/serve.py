"""capgpu serve: a web page and a JSON API that caption pictures with the model of a run."""

from __future__ import annotations

from pathlib import Path

import click

from capgpu.cli.command import Command, config_option
from capgpu.cli.console import echo
from capgpu.cli.options import COMPUTE_GROUP, Count, backend_option, run_argument, use_backend_option
from capgpu.optional_deps import require
from capgpu.training.run_folder import RunFolder

__all__ = ["serve"]

_MEGA = 1_000_000


_GROUPS = {
    "Address": ("--host", "--port", "--allow-host"),
    "Limits": ("--max-mb", "--max-megapixels", "--batch-size"),
    **COMPUTE_GROUP,
}
_EXAMPLES = (
    ("Open the page of a run at http://127.0.0.1:8000", "capgpu serve runs/demo"),
    ("Take any free port", "capgpu serve runs/demo --port 0"),
)


@click.command(cls=Command, groups=_GROUPS, examples=_EXAMPLES)
@run_argument
@config_option
@click.option("--host", default="127.0.0.1", help="Address to listen on; the default is for this machine alone.")
@click.option("--port", type=Count(0, 65535), default=8000, help="Port; 0 takes any free one.")
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="Host name to be reached by. Repeatable."
)
@click.option("--max-mb", type=Count(1, 1000), default=10, help="Megabytes of an uploaded picture, at most.")
@click.option("--max-megapixels", type=Count(1, 80), default=40, help="Megapixels of an uploaded picture, at most.")
@click.option("--batch-size", type=Count(), default=32, help="Pictures captioned together, at most.")
@click.option("--verbose", is_flag=True, help="Print a line for each request.")
@backend_option
def serve(
    folder: Path,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    max_mb: int,
    max_megapixels: int,
    batch_size: int,
    verbose: bool,
    backend: str | None,
) -> None:
    """Open a web page that captions pictures with the model of a run.

    RUN is a folder that capgpu train wrote. The page captions pictures that are dropped, pasted, selected or taken with
    the camera; it shows the captions of a split beside the reference captions, and the loss curve, also while the run
    is being trained. Its JSON API is described at /openapi.json. Ctrl-C stops the server.

    There are no user accounts: anyone who can reach the address can use the server and see the run's pictures.
    """
    for package in ("starlette", "uvicorn"):
        require(package, "serve", "The web page")
    from capgpu.serve.app import create_app
    from capgpu.serve.pictures import Limits
    from capgpu.serve.server import address_of, is_loopback, open_socket, run_server
    from capgpu.serve.service import Service

    run = RunFolder(folder)
    run.settings()
    with open_socket(host, port) as listening:
        use_backend_option(backend)
        service = Service(run, Limits(max_mb * _MEGA, max_megapixels * _MEGA), max_batch=batch_size)
        app = create_app(service, allowed_hosts=allowed_hosts, log=echo if verbose else None)
        missing = service.describe()["model_missing"]
        if missing is not None:
            echo(f"capgpu: pictures cannot be captioned: {missing}", err=True)
        if not is_loopback(listening):
            echo("capgpu: other machines can reach this server; it has no user accounts.", err=True)
        echo(f"Serving {folder} at {address_of(listening)} (Ctrl-C stops)")
        run_server(app, listening, service.limits.refuse_uploads)
    echo("Stopped.")
