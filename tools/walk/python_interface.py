"""Promises of the Python interface."""

from __future__ import annotations

import functools
import importlib.util
import io
from typing import Any

import numpy as np
from PIL import Image

from tools.walk.promises import SkippedError, User, promise, refused

_in_python = functools.partial(promise, "Python")


@_in_python("Three lines caption a picture: a file, several, a folder, a Pillow image, an array, a file in memory.")
def _caption_a_picture(user: User) -> str:
    import capgpu

    captioner: Any = capgpu.load(user.run)
    file = user.pictures / "40.png"
    with Image.open(file) as image:
        same = [file, str(file), image.copy(), np.asarray(image), io.BytesIO(file.read_bytes())]
    texts = {str(captioner.caption(picture)) for picture in same}
    assert texts == {"a red square"}, texts
    several = captioner.caption([file, user.pictures / "41.png"])
    assert [caption.text for caption in several] == ["a red square", "a green square"]
    folder = captioner.caption(user.pictures)
    assert len(folder) == 64
    return f"a red square, from {len(same)} kinds of picture; {len(folder)} captions of a folder"


@_in_python("Captions are written greedily, by a beam, or sampled, and come as text, words and probabilities.")
def _caption_in_other_ways(user: User) -> str:
    import capgpu

    captioner: Any = capgpu.load(user.run)
    file = user.pictures / "40.png"
    beams = captioner.caption(file, beam=4, captions=3)
    draws = captioner.caption(file, temperature=2.0, captions=4, seed=1)
    assert (len(beams), len(draws)) == (3, 4)
    caption = beams[0]
    assert caption.tokens == ("a", "red", "square", "<END>")
    assert len(caption.probabilities) == 4
    assert abs(np.prod(caption.probabilities) - caption.probability) < 1e-6
    return f"{caption.text}, {caption.probability:.1%}, words {[f'{p:.2f}' for p in caption.probabilities]}"


@_in_python("A model is saved by its method `save` and comes back by `CaptioningRNN.load`.")
def _save_and_load(user: User) -> str:
    import capgpu

    model, data = user.training_data()
    model.save(user.folder / "model.safetensors")
    loaded = capgpu.CaptioningRNN.load(user.folder / "model.safetensors")
    with capgpu.use_backend("numpy"):
        pairs = [capgpu.to_numpy(m.sample(capgpu.asarray(data["train_features"]))) for m in (model, loaded)]
    assert np.array_equal(*pairs)
    return repr(loaded)


@_in_python("Importing capgpu loads no part of it; each part is an attribute, and dir() lists public names only.")
def _lazy_imports(user: User) -> str:
    code = (
        "import sys, capgpu\n"
        "before = [name for name in sys.modules if name.startswith('capgpu.')]\n"
        "assert not before, before\n"
        "capgpu.layers.affine_forward, capgpu.optim.adam, capgpu.vision\n"
        "names = [name for name in dir(capgpu) if not name.startswith('__')]\n"
        "assert names == sorted(capgpu.__all__), names\n"
        "print(len(names))"
    )
    done = user.python(code)
    assert done.returncode == 0, done.stderr[-300:]
    return f"{done.stdout.strip()} public names"


@_in_python("``python -m capgpu`` is the command, and -V prints the version of the package and of the changelog.")
def _module_and_version(user: User) -> str:
    import capgpu
    from tools.walk.promises import ROOT

    printed = user.capgpu("-V").stdout.strip()
    assert printed == f"capgpu, version {capgpu.__version__}"
    heads = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert heads[0].split()[1].rstrip(",") == capgpu.__version__, heads[0]
    return printed


@_in_python("Model, solver and optimizer print their sizes; a notebook shows a run with its loss curve and pictures.")
def _representations(user: User) -> str:
    import capgpu

    model, data = user.training_data()
    solver = capgpu.CaptioningSolver(model, data, "adam", verbose=False)
    shown = f"{model!r} {solver!r}"
    for words in ("lstm", "parameters", "reference kernels", "epoch 0 of 10", "Optimizer('adam'"):
        assert words in shown, (words, shown)
    html = capgpu.load(user.run)._repr_html_()
    assert html.count("<img") >= 2, "the loss curve, and pictures"
    return repr(model)


@_in_python("Callbacks run after each step, `stop` ends training, and early stopping follows a score.")
def _stop_training(user: User) -> str:
    import capgpu
    from capgpu.training.callbacks import EarlyStopping

    model, data = user.training_data()
    steps: list[int] = []

    def stop_at_three(solver: Any, record: Any) -> None:
        steps.append(record["step"])
        if record["step"] == 3:
            solver.stop()

    solver = capgpu.CaptioningSolver(model, data, "adam", batch_size=4, verbose=False, step_callbacks=[stop_at_three])
    solver.train()
    assert (steps, solver.stopped) == ([1, 2, 3], True)
    early = EarlyStopping(2, monitor="score", mode="max")
    solver = capgpu.CaptioningSolver(
        model, data, num_epochs=50, verbose=False, metric=lambda *_: {"score": 1.0}, callbacks=[early]
    )
    solver.train()
    assert solver.epoch == 3
    return "stopped after step 3; a score that stays ended training after epoch 3"


@_in_python(
    "Gradients accumulate over parts of a minibatch; parameters are frozen or have learning rates of their own."
)
def _other_ways_to_train(user: User) -> str:
    import capgpu

    losses = []
    for micro in (None, 2):
        model, data = user.training_data()
        settings: dict[str, Any] = {"num_epochs": 2, "seed": 0, "verbose": False, "micro_batch_size": micro}
        frozen = capgpu.to_numpy(model.params["W_embed"]).copy()
        own = {"W_vocab": {"learning_rate": 0.1}}
        solver = capgpu.CaptioningSolver(model, data, "adam", frozen=["W_embed"], param_config=own, **settings)
        solver.train()
        assert np.array_equal(frozen, capgpu.to_numpy(model.params["W_embed"]))
        assert solver.optim_configs["W_vocab"]["learning_rate"] == 0.1
        losses.append(solver.loss_history)
    assert np.allclose(*losses, rtol=1e-4)
    return f"losses {losses[0]} whole, {losses[1]} in parts"


@_in_python("Word vectors of GloVe's text files start the embedding.")
def _word_vectors(user: User) -> str:
    import capgpu
    from capgpu.data.word_vectors import load_word_vectors, set_word_vectors

    model, _ = user.training_data()
    (user.folder / "glove.txt").write_text("cat 1 2 3 4\nhorse 1 1 1 1\n")
    found = set_word_vectors(model, load_word_vectors(user.folder / "glove.txt", model.word_to_idx))
    row = capgpu.to_numpy(model.params["W_embed"])[model.word_to_idx["cat"]]
    assert row.tolist() == [1, 2, 3, 4]
    return f"cat has its vector; {found}"


@_in_python("Scores of captions while training go to the history, to a tracker's function, and to TensorBoard.")
def _follow_training(user: User) -> str:
    import capgpu
    from capgpu.evaluation.caption_metric import CaptionMetric

    model, data = user.training_data()
    tracked: list[Any] = []
    callbacks: list[Any] = [lambda solver, record: tracked.append(record["metric"])]
    steps: list[Any] = []
    if importlib.util.find_spec("tensorboardX") is not None:
        from capgpu.training.tensorboard import TensorBoardLogger

        logger = TensorBoardLogger(user.folder / "board")
        callbacks.append(logger.epoch)
        steps.append(logger.step)
    settings: dict[str, Any] = {"num_epochs": 2, "verbose": False, "callbacks": callbacks, "step_callbacks": steps}
    capgpu.CaptioningSolver(model, data, "adam", metric=CaptionMetric(["BLEU-1"]), **settings).train()
    assert [list(record) for record in tracked] == [["BLEU-1"]] * 2
    events = list((user.folder / "board").glob("events*")) if steps else []
    assert not steps or events
    return f"{tracked}; {len(events)} files for TensorBoard" + ("" if steps else ", whose package is not installed")


@_in_python("The loss gives its gradient with respect to the features on request; an example trains an encoder by it.")
def _gradient_of_features(user: User) -> str:
    import capgpu
    from tools.walk.promises import ROOT

    model, data = user.training_data()
    with capgpu.use_backend("numpy"):
        features = capgpu.asarray(data["train_features"])
        _, grads = model.loss(features, data["train_captions"][:2], features_gradient=True)
        gradient = capgpu.to_numpy(grads["features"])
    assert gradient.shape == (2, 2)
    assert np.abs(gradient).max() > 0
    assert (ROOT / "examples" / "finetune_torch_encoder.py").is_file()
    return f"gradient of shape {gradient.shape}; examples/finetune_torch_encoder.py"


@_in_python("Tensors of PyTorch are refused with the conversion.")
def _advice_for_tensors(user: User) -> str:
    if importlib.util.find_spec("torch") is None:
        raise SkippedError("PyTorch is not installed")
    import torch

    import capgpu

    return refused(lambda: capgpu.load(user.run).caption(torch.zeros(5)), "numpy")[:90]


@_in_python("The history has one unit of losses side by side, keys without spaces, and is read as a table.")
def _history_as_a_table(user: User) -> str:
    import capgpu

    records = capgpu.load(user.run).history()
    epoch = next(record for record in records if record["kind"] == "epoch")
    assert all(" " not in key and not isinstance(value, dict) for record in records for key, value in record.items())
    assert {"train_loss", "val_loss"} <= epoch.keys()
    if importlib.util.find_spec("pandas") is None:
        return f"{len(records)} flat records with the keys {', '.join(epoch)}"
    import pandas

    table = pandas.read_json(user.run / "history.jsonl", lines=True)
    return f"a table of {table.shape}"


@_in_python("gpu and cupy are other names of cuda, numba of cpu.")
def _names_of_backends(user: User) -> str:
    import capgpu

    with capgpu.use_backend("numba"):
        assert capgpu.current_backend().name == "cpu"
    seen = []
    for name in ("gpu", "cupy"):
        try:
            with capgpu.use_backend(name):
                seen.append(capgpu.current_backend().name)
        except capgpu.BackendUnavailableError as error:
            seen.append(f"{name}: {str(error)[:60]}")
    assert all("cuda" in line for line in seen), seen
    return f"numba is cpu; {seen}"


@_in_python("The remedy for a missing package is a command that works for this installation.")
def _remedies_work_here(user: User) -> str:
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from capgpu.data.feature_files import open_features\n"
        "try:\n    open_features('features.h5')\nexcept ImportError as error:\n    print(error)"
    )
    (user.folder / "features.h5").touch()
    done = user.python(code)
    assert "pip install 'h5py" in done.stdout, done.stdout + done.stderr
    assert "capgpu[" not in done.stdout
    return done.stdout.strip()[-60:]


@_in_python(
    "Inputs without meaning are refused: no START, only NULL, parameters of NaN, unknown ones, a list of words."
)
def _meaningless_inputs(user: User) -> str:
    import capgpu

    model, data = user.training_data()
    seen = []
    with capgpu.use_backend("numpy"):
        features = capgpu.asarray(data["train_features"])
        seen.append(refused(lambda: model.loss(features, np.zeros((2, 3), int)), "NULL"))
        bad = {**data, "train_captions": data["train_captions"][:, ::-1]}
        seen.append(refused(lambda: capgpu.CaptioningSolver(model, bad, verbose=False), "START"))
        seen.append(refused(lambda: capgpu.CaptioningRNN(list(data["word_to_idx"]), 2, 4, 8), "word_to_idx"))  # type: ignore[arg-type]
        model.params["W_extra"] = model.params["b"]
        seen.append(refused(lambda: model.loss(features, data["train_captions"][:2]), "W_extra"))
        del model.params["W_extra"]
        model.params["b"] = model.params["b"] * np.float32("nan")
        seen.append(refused(lambda: model.sample(features), "finite"))
    return f"{len(seen)} refusals, such as: {seen[0][:70]}"


@_in_python("A beam that does not fit the memory is refused before it takes any.")
def _wide_beams(user: User) -> str:
    import capgpu

    text = refused(lambda: capgpu.load(user.run).caption(user.pictures / "40.png", beam=10**9), "memory")
    return text[:90]


@_in_python("Ctrl-C ends a notebook's 'run all': train raises KeyboardInterrupt once the state is saved.")
def _interrupted_notebook(user: User) -> str:
    code = (
        "import os, signal, capgpu\n"
        "from pathlib import Path; from tools.walk.promises import User\n"
        "model, data = User(Path('.')).training_data()\n"
        "press = lambda solver, record: os.kill(os.getpid(), signal.SIGINT)\n"
        "solver = capgpu.CaptioningSolver(model, data, verbose=False, step_callbacks=[press])\n"
        "try:\n    solver.train()\nexcept KeyboardInterrupt as error:\n    print(solver.interrupted, error)"
    )
    done = user.python(code)
    assert done.stdout.startswith("True training was interrupted"), done.stdout + done.stderr
    return done.stdout.strip()
