"""The formats that are fuzzed: how to write sound files, how to mutate them, how to read them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.errors import CapgpuError
from tools.fuzz.mutators import (
    BYTES,
    JSON,
    JSON_LINES,
    NPY,
    NPZ,
    PNG,
    SAFETENSORS,
    TEXT,
    Mutator,
    sealed_safetensors,
)

__all__ = ["FORMATS", "Format"]

_WORDS = [
    "<NULL>",
    "<START>",
    "<END>",
    "<UNK>",
    *["a", "dog", "cat", "runs", "sits", "red", "on", "the", "mat", "under"],
]
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Format:
    """A format and its reader.

    Attributes
    ----------
    write : callable
        Writes sound files into a folder.
    read : callable
        Reads them, and returns everything that was read, in a form that can be compared.
    mutators : mapping of str to sequence of Mutator
        How to mutate each file.
    protected : bool
        Whether a checksum detects each change that does not renew it.
    seal : callable or None
        Renews the checksums in a folder after the file of that name was mutated.
    needs : tuple of str
        Packages without which the format cannot be read.
    seconds : float
        Seconds that a reader may take for a mutant of a few kilobytes; measured twice, since the machine may be busy.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutators: Mapping[str, Sequence[Mutator]]
    protected: bool = False
    seal: Callable[[Path, str], None] | None = None
    needs: tuple[str, ...] = ()
    seconds: float = 2.0


def _same(value: Any) -> Any:
    """Return a value in which arrays are replaced by their bytes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: _same(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_same(entry) for entry in value]
    return value


# --- models, states and weights ----------------------------------------------------------------------------


def _model() -> Any:
    from capgpu.model import CaptioningRNN

    return CaptioningRNN({word: i for i, word in enumerate(_WORDS)}, 4, 3, 5, "lstm", seed=0)


def _write_model(folder: Path) -> None:
    from capgpu.checkpoint import save_model

    save_model(folder / "model.safetensors", _model())


def _read_model(folder: Path) -> Any:
    from capgpu.checkpoint import load_model

    model = load_model(folder / "model.safetensors")
    if all(np.isfinite(array).all() for array in model.params.values()):
        model.nll(np.zeros((1, model.config["input_dim"]), model.dtype), np.array([[0, 0]], np.int32))
    return _same((model.config, model.word_to_idx, dict(model.params)))


def _seal_safetensors(folder: Path, name: str) -> None:
    file = folder / name
    if file.suffix == ".safetensors":
        file.write_bytes(sealed_safetensors(file.read_bytes()))


def _data() -> dict[str, Any]:
    random = np.random.default_rng(0)
    data: dict[str, Any] = {"idx_to_word": _WORDS, "word_to_idx": {word: i for i, word in enumerate(_WORDS)}}
    for split in _SPLITS:
        captions = random.integers(4, len(_WORDS), (6, 5)).astype(np.int32)
        captions[:, 0], captions[:, 4] = 1, 2
        data[f"{split}_captions"], data[f"{split}_image_idxs"] = captions, np.arange(6) % 3
        data[f"{split}_features"] = random.normal(size=(3, 4)).astype(np.float32)
        data[f"{split}_texts"] = [" ".join(_WORDS[i] for i in row[1:4]) for row in captions]
        data[f"{split}_image_ids"] = ["one", 2, "drei"]
    return data


def _solver(folder: Path, resume: bool) -> Any:
    from capgpu.solver import CaptioningSolver

    return CaptioningSolver(
        _model(),
        _data(),
        update_rule="adam",
        batch_size=3,
        num_epochs=1,
        seed=0,
        verbose=False,
        keep_best=True,
        history=folder / "history.jsonl",
        checkpoint=folder,
        resume=resume,
    )


def _write_state(folder: Path) -> None:
    _solver(folder, False).train()


def _read_state(folder: Path) -> Any:
    solver = _solver(folder, True)
    state = solver.step, solver.epoch, solver.best_epoch, solver.loss_history, solver.val_loss_history
    optimizer = solver._optimizer.state_dict()
    return _same((state, dict(solver.model.params), dict(solver.best_params), optimizer, solver.metric_history))


def _write_torch(folder: Path) -> None:
    from capgpu.interchange import save_torch_safetensors

    save_torch_safetensors(folder / "torch.safetensors", _model())


def _read_torch(folder: Path) -> Any:
    from capgpu.interchange import load_torch_safetensors

    model = load_torch_safetensors(folder / "torch.safetensors")
    return _same((model.config, model.word_to_idx, dict(model.params)))


def _write_history(folder: Path) -> None:
    from capgpu.training.history import HistoryWriter

    history = HistoryWriter(folder / "history.jsonl")
    history.write("start", settings={"seed": 0}, step=0)
    for step in range(1, 4):
        history.write("step", step=step, epoch=1, loss=1.5)
        history.write("epoch", step=step, epoch=step, train_loss=1.0, val_loss=2.0)
    history.close()


def _read_history(folder: Path) -> Any:
    from capgpu.training.history import HistoryWriter, read_history, rewind_history

    path = folder / "history.jsonl"
    records = read_history(path)
    rewind_history(path, 2, 2)
    history = HistoryWriter(path)
    history.write("end", step=2)
    history.close()
    return records, read_history(path)


def _write_run(folder: Path) -> None:
    from capgpu.data.datasets import Dataset
    from capgpu.training.run_folder import RunFolder
    from capgpu.training.training_run import make_solver

    settings = {"data": "emoji", "seed": 0, "hidden": 5, "wordvec": 3, "cell": "lstm", "dtype": "float32"}
    settings |= {"epochs": 2, "batch_size": 3, "dropout": 0.0, "learning_rate": 0.01, "schedule": "cosine"}
    settings |= {"update_rule": "adam", "tie_weights": False, "label_smoothing": 0.0, "data_identity": None}
    settings |= {"precision": "float32", "group_by_length": False}
    settings |= {"warmup": 0, "weight_decay": None, "clip_norm": 1.0, "metric": None, "patience": 3}
    settings |= {"layers": 1, "layer_dropout": 0.0, "self_critical": False, "from_run": None}
    settings |= {"samples": 5, "reward": "CIDEr", "baseline": "samples", "sharpen": 2.0}
    run, dataset = RunFolder(folder), Dataset("data", _data())
    run.start(settings)
    solver = make_solver(run, dataset, settings, resume=False)
    solver.checkpoint, solver.verbose = run.checkpoint, False
    solver.train()


def _read_run(folder: Path) -> Any:
    from capgpu.data.datasets import Dataset
    from capgpu.training.run_folder import RunFolder
    from capgpu.training.training_run import make_solver, resumed_settings

    run = RunFolder(folder)
    settings = resumed_settings(run, {}, _RUN_SETTINGS)
    return settings, make_solver(run, Dataset("data", _data()), settings, resume=True).step


_RUN_SETTINGS = (
    *(
        "data",
        "cell",
        "hidden",
        "wordvec",
        "epochs",
        "batch_size",
        "learning_rate",
        "update_rule",
        "schedule",
        "dropout",
    ),
    *("label_smoothing", "tie_weights", "group_by_length", "seed", "dtype", "precision"),
    *("warmup", "weight_decay", "clip_norm", "metric", "patience", "layers", "layer_dropout"),
    *("self_critical", "from_run", "samples", "reward", "baseline", "sharpen"),
)


def _write_encoder(folder: Path) -> None:
    from capgpu.vision.encoder_config import EncoderConfig
    from capgpu.vision.preprocessing import Preprocessing
    from capgpu.vision.projection import Projection

    projection = Projection(np.zeros(6, np.float32), np.ones((6, 4), np.float32))
    preprocessing = Preprocessing(8, (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    EncoderConfig("net.onnx", "0" * 64, "scores", preprocessing, projection, 4).save(folder)


def _read_encoder(folder: Path) -> Any:
    from capgpu.vision.encoder_config import EncoderConfig

    config = EncoderConfig.load(folder)
    if config.projection is not None:
        config.projection.apply(np.zeros((1, len(config.projection.mean)), np.float32))
    return _same((config.network, config.sha256, config.output, config.preprocessing, config.projection, config.dim))


# --- feature files and data sets ---------------------------------------------------------------------------

_FEATURES = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def _read_features(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from capgpu.data.feature_files import open_features

        found = open_features(folder / name)
        return _same((np.array(found.rows), found.image_ids))

    return read


def _write_npy(folder: Path) -> None:
    np.save(folder / "features.npy", _FEATURES)


def _write_npz(folder: Path) -> None:
    np.savez_compressed(folder / "features.npz", features=_FEATURES, image_ids=np.array([3, 1, 2]))


def _write_h5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "features.h5", "w") as file:
        file["features"] = _FEATURES
        file["image_ids"] = ["a", "b", "ç"]
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("features", data=np.tile(_FEATURES, (4, 1)), chunks=(2, 2), compression="gzip")
        file.create_dataset("ids", data=np.arange(12))


def _read_h5(folder: Path) -> Any:
    return [_read_features(name)(folder) for name in ("features.h5", "chunked.h5")]


def _write_course(folder: Path) -> None:
    import h5py

    data = _data()
    with h5py.File(folder / "coco2014_captions.h5", "w") as file:
        for split in _SPLITS:
            for part in ("captions", "image_idxs"):
                file[f"{split}_{part}"] = data[f"{split}_{part}"]
    words = {"idx_to_word": data["idx_to_word"], "word_to_idx": data["word_to_idx"]}
    (folder / "coco2014_vocab.json").write_text(json.dumps(words))
    for split in _SPLITS:
        with h5py.File(folder / f"{split}2014_vgg16_fc7_pca.h5", "w") as file:
            file["features"] = data[f"{split}_features"]
        (folder / f"{split}2014_urls.txt").write_text("".join(f"http://x/{i}.jpg\n" for i in range(3)))


def _checked_data(data: Mapping[str, Any]) -> Any:
    from capgpu.data.arrays import splits_of, validate_data

    validate_data(data, splits_of(data))
    return _same({key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in data.items()})


def _read_course(folder: Path) -> Any:
    from capgpu.data.cs231n_coco import load_coco_data

    return _checked_data(load_coco_data(folder))


def _write_prepared(folder: Path) -> None:
    from capgpu.data.prepared_dataset import save_prepared

    save_prepared(folder, _data(), settings={"seed": 0}, report={"splits": {"train": {"pictures": 3}}})


def _read_prepared(folder: Path) -> Any:
    from capgpu.data.arrays import splits_of
    from capgpu.data.datasets import open_dataset
    from capgpu.data.prepared_dataset import read_manifest

    read_manifest(folder)
    dataset = open_dataset(folder)
    truths = [(dataset.truths(split), dataset.image_ids(split)) for split in splits_of(dataset.data)]
    return _checked_data(dataset.data), truths


def _seal_prepared(folder: Path, name: str) -> None:
    """Enter size and checksum of a changed file in the manifest."""
    manifest = folder / "prepared.json"
    if name in ("prepared.json", "checked.json"):
        return
    stored = json.loads(manifest.read_text())
    content = (folder / name).read_bytes()
    stored["files"][name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    manifest.write_text(json.dumps(stored))


class _Encoder:
    """Features of files without a network."""

    shape = (4,)
    dtype = np.dtype(np.float32)

    def encode(self, paths: Sequence[Path]) -> Any:
        from capgpu.vision.encoder import Encoded

        return Encoded(np.ones((len(paths), 4), np.float32), list(range(len(paths))), [])


def _journal(folder: Path) -> Any:
    from capgpu.data.feature_journal import collect_features

    files = [folder / f"{i}.jpg" for i in range(3)]
    rows, kept, broken = collect_features(_Encoder(), files, folder)  # type: ignore[arg-type] # what is called of it
    return _same((np.array(rows), kept, broken))


def _seal_journal(folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes().partition(b"\n")[2]
    file.write_bytes(b"%08x\n" % zlib.crc32(content) + content)


def _journal_head(random: Any, content: bytes) -> bytes:
    checksum, head, rows = content.split(b"\n", 2)
    return b"\n".join((checksum, JSON[-1](random, head), rows))


# --- captions ----------------------------------------------------------------------------------------------

_CAPTIONS = {
    "captions.csv": 'image,caption,split\na.jpg,a dog runs,train\nb.jpg,"a cat, red",train\na.jpg,the dog,train\n'
    "c.jpg,\"['one', 'two']\",val\n",
    "captions.tsv": 'image\tcaption_0\tcaption_1\na.jpg\ta dog\ta "cat"\nb.jpg\ta cat\t\n',
    "captions.jsonl": '{"image": "a.jpg", "caption": "a dog"}\n{"image": "b.jpg", "captions": ["a", "b"]}\n',
    "flickr.token.txt": "a.jpg#0\ta dog\na.jpg#1\ta cat\nb.jpg#0\tthe mat\n",
    "listed.csv": "image,caption\na.jpg,a dog\nb.jpg,a cat\nc.jpg,a mat\n",
    "captions_val2017.json": json.dumps(
        {
            "info": {"year": 2017},
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 4)],
            "annotations": [{"id": i, "image_id": 1 + i % 3, "caption": f"a dog {i}"} for i in range(6)],
        }
    ),
    "dataset.json": json.dumps(
        {
            "images": [
                {
                    "imgid": i,
                    "split": split,
                    "filename": f"{i}.jpg",
                    "filepath": "val2014",
                    "sentences": [{"raw": f"a dog {i}", "tokens": ["a", "dog"]}],
                }
                for i, split in enumerate(("train", "val", "test", "restval"))
            ],
            "dataset": "coco",
        }
    ),
    "results.json": json.dumps([{"image_id": i, "caption": f"a cat {i}"} for i in range(1, 4)]),
}


def _write_captions(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).write_text(_CAPTIONS[name])

    return write


def _source(folder: Path, name: str) -> Any:
    from capgpu.data.detect_format import read_source
    from capgpu.data.source import Source
    from capgpu.data.split import split_pictures

    source: Source = read_source(folder / name, None, folder)
    for split, pictures in source.splits.items():
        assert split
        assert split.isidentifier()
        assert len(pictures) == len(set(pictures.image_ids)) == len(pictures.captions)
        assert all(text.strip() for texts in pictures.captions for text in texts)
        # no name may leave the folder
        files = [os.path.normpath(file) for file in pictures.files or ()]
        assert all(file.startswith(f"{folder}{os.sep}") for file in files)
    if all(map(len, source.splits.values())) and sum(map(len, source.splits.values())) > 8:
        split_pictures(source, 0.1, 0.1, 0)
    return [(split, pictures.image_ids, pictures.captions) for split, pictures in source.splits.items()]


def _read_source(name: str) -> Callable[[Path], Any]:
    return lambda folder: _source(folder, name)


def _write_lists(folder: Path) -> None:
    (folder / "listed.csv").write_text(_CAPTIONS["listed.csv"])
    (folder / "train.txt").write_text("a.jpg\nb.jpg\n")
    (folder / "Flickr_8k.devImages.txt").write_text("c.jpg\n")


def _read_results(folder: Path) -> Any:
    from capgpu.data.coco_json import read_coco_captions
    from capgpu.data.coco_results import match_results, read_coco_results

    results = read_coco_results(folder / "results.json")
    annotations = read_coco_captions(folder / "captions_val2017.json")
    matched = match_results(results, annotations, results_name=str(folder / "results.json"), subset=True)
    return matched.captions, matched.references


def _write_vocabulary(folder: Path) -> None:
    from capgpu.vocabulary import Vocabulary

    (folder / "vocabulary.json").write_text(Vocabulary(_WORDS).to_json())


def _read_vocabulary(folder: Path) -> Any:
    from capgpu.data.text_files import read_text
    from capgpu.vocabulary import Vocabulary

    text = read_text(folder / "vocabulary.json")
    try:
        return Vocabulary.from_json(text).idx_to_word
    except CapgpuError as error:
        # a text has no file name: its reader adds it
        raise CapgpuError(f"{folder}: {error}") from error


# --- networks and pictures -----------------------------------------------------------------------------------


def _write_state_dict(folder: Path) -> None:
    class Storage:
        def __init__(self, key: str, length: int) -> None:
            self.key, self.length = key, length

    def program(value: Any) -> bytes:
        out = io.BytesIO()
        pickle.Pickler(out, 2).dump(value)
        return out.getvalue()

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def tensor(key: str, length: int, shape: Sequence[int]) -> bytes:
        stored = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(length) + b"Nt"
        sizes = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, [*shape[1:], 1]))
        hooks = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"Q" + number(0) + sizes + b"\x89" + hooks + b"tR"

    tensors = text("weight") + tensor("1", 6, (2, 3)) + text("bias") + tensor("2", 3, (3,))
    content = program(0x1950A86A20F9469CFC6C) + program(1001) + program({"little_endian": True, "type_sizes": {}})
    content += b"\x80\x02ccollections\nOrderedDict\n)R(" + tensors + b"u."
    content += program(["1", "2"]) + struct.pack("<q6f", 6, *range(6)) + struct.pack("<q3f", 3, *range(3))
    (folder / "weights.pth").write_bytes(content)


def _read_state_dict(folder: Path) -> Any:
    from capgpu.vision.state_dict import read_state_dict

    return _same(read_state_dict(folder / "weights.pth"))


def _write_onnx(folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    kernel, matrix = random.normal(size=(5, 3, 1, 1)), random.normal(size=(5, 2))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pictures", "kernel"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(matrix.astype(np.float32), "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "network.onnx").write_bytes(model.SerializeToString())


def _read_onnx(folder: Path) -> Any:
    from capgpu.vision.network import Network, network_sha256

    results: list[Any] = []
    for output in (None, "pooled"):
        network = Network(folder / "network.onnx", output)
        if (network.size or 4) < 100:
            results.append(network(np.ones((3, network.size or 4, network.size or 4), np.float32)))
    return _same(results), network_sha256(folder / "network.onnx")


def _write_picture(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 4)).astype(np.uint8)
        pixels[4:8, 4:8] = 255
        picture = Image.fromarray(pixels)
        if kind not in ("png", "webp", "tif"):
            picture = picture.convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        extra: dict[str, Any] = {"exif": exif} if kind in ("jpg", "png", "webp", "tif") else {}
        picture.save(folder / f"picture.{kind}", **extra)

    return write


def _read_picture(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from capgpu.data.pictures import thumbnail

        return _same(thumbnail(folder / f"picture.{kind}", 32))

    return read


def _write_tuning(folder: Path) -> None:
    entry = {"lstm_forward float32 H=512 N=64": {"algorithm": "persistent", "units": 8}}
    (folder / "capgpu").mkdir()
    (folder / "capgpu" / "tuning.json").write_text(json.dumps({"format": 2, "devices": {"NVIDIA H100": entry}}))


def _read_tuning(folder: Path) -> Any:
    """Read the cache of tuned kernels: what is damaged counts as absent, with a warning that names the file."""
    import warnings

    from capgpu.kernels.cuda import tuning_cache

    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    tuning_cache.forget()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = tuning_cache.stored("NVIDIA H100")
        assert all(str(folder) in str(warning.message) for warning in caught)
    finally:
        tuning_cache.forget()
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
    return found


def _write_config(folder: Path) -> None:
    (folder / "train.toml").write_text(
        'hidden = 512\nlearning-rate = 0.01\n[train]\ncell = "rnn"\ntie-weights = true\n'
    )


def _read_config(folder: Path) -> Any:
    import click

    from capgpu.cli.train import train

    try:
        return train.make_context("train", ["--config", str(folder / "train.toml")]).params
    except click.UsageError as error:
        raise CapgpuError(f"{folder}: {error.message}") from error


_PREPARED = Format(
    _write_prepared,
    _read_prepared,
    {
        "prepared.json": JSON,
        "vocabulary.json": JSON,
        "train.json": JSON,
        "val.json": JSON,
        "checked.json": JSON,
        "train_captions.npy": NPY,
        "val_image_idxs.npy": NPY,
        "train_features.npy": NPY,
    },
)

FORMATS: dict[str, Format] = {
    "model": Format(_write_model, _read_model, {"model.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "state": Format(_write_state, _read_state, {"training.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "torch": Format(_write_torch, _read_torch, {"torch.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "history": Format(_write_history, _read_history, {"history.jsonl": JSON_LINES}),
    "run": Format(_write_run, _read_run, {"config.json": JSON}),
    "encoder": Format(
        _write_encoder,
        _read_encoder,
        {"encoder.json": JSON, "encoder.safetensors": SAFETENSORS},
        seal=_seal_safetensors,
    ),
    "npy": Format(_write_npy, _read_features("features.npy"), {"features.npy": NPY}),
    "npz": Format(_write_npz, _read_features("features.npz"), {"features.npz": NPZ}),
    # the HDF5 library has 3 s of processor time
    "hdf5": Format(_write_h5, _read_h5, {"features.h5": BYTES, "chunked.h5": BYTES}, needs=("h5py",), seconds=15.0),
    "course": Format(
        _write_course,
        _read_course,
        {"coco2014_captions.h5": BYTES, "coco2014_vocab.json": JSON, "val2014_urls.txt": TEXT},
        needs=("h5py",),
        seconds=15.0,
    ),
    "prepared": replace(_PREPARED, seal=_seal_prepared),
    "journal": Format(
        _journal, _journal, {"piece-00000000.bin": (*BYTES, *[_journal_head] * len(BYTES))}, True, _seal_journal
    ),
    "csv": Format(_write_captions("captions.csv"), _read_source("captions.csv"), {"captions.csv": TEXT}),
    "tsv": Format(_write_captions("captions.tsv"), _read_source("captions.tsv"), {"captions.tsv": TEXT}),
    "jsonl": Format(_write_captions("captions.jsonl"), _read_source("captions.jsonl"), {"captions.jsonl": JSON_LINES}),
    "token": Format(_write_captions("flickr.token.txt"), _read_source("flickr.token.txt"), {"flickr.token.txt": TEXT}),
    "lists": Format(_write_lists, _read_source("listed.csv"), {"train.txt": TEXT, "Flickr_8k.devImages.txt": TEXT}),
    "coco": Format(
        _write_captions("captions_val2017.json"), _read_source("captions_val2017.json"), {"captions_val2017.json": JSON}
    ),
    "karpathy": Format(_write_captions("dataset.json"), _read_source("dataset.json"), {"dataset.json": JSON}),
    "results": Format(_write_captions("results.json", "captions_val2017.json"), _read_results, {"results.json": JSON}),
    "vocabulary": Format(_write_vocabulary, _read_vocabulary, {"vocabulary.json": JSON}),
    "state_dict": Format(_write_state_dict, _read_state_dict, {"weights.pth": BYTES}),
    "onnx": Format(_write_onnx, _read_onnx, {"network.onnx": BYTES}, needs=("onnx", "onnxruntime")),
    "config": Format(_write_config, _read_config, {"train.toml": TEXT}),
    "tuning": Format(_write_tuning, _read_tuning, {"capgpu/tuning.json": JSON}),
    **{
        kind: Format(_write_picture(kind), _read_picture(kind), {f"picture.{kind}": PNG if kind == "png" else BYTES})
        for kind in ("jpg", "png", "gif", "tif", "webp", "bmp", "tga", "ppm", "jp2", "ico")
    },
}
