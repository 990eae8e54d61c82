"""capgpu export: a trained captioner for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from capgpu.cli.options import refuse_unwritable, run_option
from capgpu.training.run_folder import RunFolder

__all__ = ["export"]


@click.command()
@run_option
@click.option("--to", "form", type=click.Choice(["onnx", "torch"]), required=True, help="What to write.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder (onnx) or file (torch).")
def export(folder: Path, form: str, out: Path) -> None:
    """Write a run's captioner for other programs.

    onnx: a folder with begin.onnx (features to the first state) and step.onnx (word and state to the next word's
    log-probabilities and state). torch: a safetensors file with the names and the layout of an equivalent PyTorch
    module, which capgpu.interchange describes. Both hold the vocabulary.
    """
    from capgpu.backend import set_backend
    from capgpu.interchange import BEGIN_FILE, export_onnx, save_torch_safetensors

    run = RunFolder(folder)
    if form == "torch":
        refuse_unwritable(out, inputs=run.files())
    elif out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; wanted a folder for two networks.")
    else:
        refuse_unwritable(out / BEGIN_FILE if out.exists() else out)
    set_backend("numpy")  # files are written from the host
    model = run.load_model()
    files = [out]
    if form == "onnx":
        files = list(export_onnx(model, out))
    else:
        save_torch_safetensors(out, model)
    for file in files:
        click.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
