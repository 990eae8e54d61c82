"""capgpu export: a trained captioner as ONNX networks or as a PyTorch state."""

from __future__ import annotations

from pathlib import Path

import click

from capgpu.cli.command import Command
from capgpu.cli.console import echo
from capgpu.cli.options import check_writable, run_argument
from capgpu.errors import InvalidValueError
from capgpu.folder_lock import folder_lock
from capgpu.training.run_folder import RunFolder

__all__ = ["export"]


_EXAMPLES = (
    ("Write networks for ONNX's runtimes", "capgpu export runs/demo --to onnx --out exported"),
    ("Write the state of a PyTorch module", "capgpu export runs/demo --to torch --out demo.safetensors"),
)


@click.command(cls=Command, examples=_EXAMPLES)
@run_argument
@click.option("--to", "form", type=click.Choice(["onnx", "torch"]), required=True, help="Format.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder (onnx) or file (torch).")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def export(folder: Path, form: str, out: Path, force: bool) -> None:
    """Write a run's model for other programs.

    RUN is a folder that capgpu train wrote. onnx: a folder with begin.onnx (from features to the initial state) and
    step.onnx (from a word and a state to the log-probabilities of the next word and the next state). torch: a
    safetensors file with the names and the layout of an equivalent PyTorch module, described in capgpu.interchange.
    Both contain the vocabulary.
    """
    from capgpu.backend import set_backend
    from capgpu.interchange import BEGIN_FILE, STEP_FILE, export_onnx, save_torch_safetensors

    run = RunFolder(folder)
    if form == "torch":
        check_writable(out, inputs=run.files())
    elif out.exists() and not out.is_dir():
        raise InvalidValueError(f"{out}: expected a folder for two networks, got a file.")
    else:
        check_writable(out / BEGIN_FILE if out.exists() else out)
    files = [out] if form == "torch" else [out / BEGIN_FILE, out / STEP_FILE]
    _check_new(files, force)
    set_backend("numpy")  # the files are written from host arrays
    model = run.load_model()
    if form == "onnx":
        with folder_lock(out):  # two processes would leave a network of each
            _check_new(files, force)
            export_onnx(model, out)
    else:
        save_torch_safetensors(out, model)
    for file in files:
        echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


def _check_new(files: list[Path], force: bool) -> None:
    existing = [file for file in files if file.exists()]
    if existing and not force:
        raise InvalidValueError(f"{existing[0]} exists. Name another output with -o, or overwrite it with --force.")
