"""What importing the package costs: NumPy, and nothing that a user has not asked for."""

from __future__ import annotations

import json

import pytest

import capgpu

LOADED = """
import json, sys
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))))
"""
HEAVY = {
    "numba",
    "llvmlite",
    "cupy",
    "h5py",
    "matplotlib",
    "rich",
    "PIL",
    "safetensors",
    "torch",
    "click",
    "ml_dtypes",
    "mpi4py",
}


def test_importing_the_package_loads_nothing_but_numpy(in_new_process):
    numpy_alone = json.loads(in_new_process("import numpy\n" + LOADED))
    with_capgpu = json.loads(in_new_process("import capgpu\n" + LOADED))
    assert set(with_capgpu) - set(numpy_alone) == {"capgpu"}


def test_importing_the_package_probes_no_device(in_new_process):
    code = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("cupy", "numba"), name
sys.meta_path.insert(0, Watch())
import capgpu, capgpu.layers, capgpu.model, capgpu.kernels, capgpu.sequence
"""
    in_new_process(code, CAPGPU_BACKEND="cuda")


def test_the_numpy_backend_needs_nothing_but_numpy_and_the_compat_layer(in_new_process):
    code = """
import numpy as np
import capgpu
from capgpu import layers
model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "cat": 2}, 3, 4, 5, "lstm", seed=0)
model.loss(np.ones((2, 3), np.float32), np.array([[1, 2, 0], [1, 2, 2]]), dropout_key=1)
model.sample(np.ones((2, 3), np.float32))
layers.rnn_forward(np.zeros((2, 3, 4)), np.zeros((2, 5)), np.zeros((4, 5)), np.zeros((5, 5)), np.zeros(5))
"""
    loaded = set(json.loads(in_new_process(code + LOADED, CAPGPU_BACKEND="numpy")))
    assert not loaded & HEAVY
    assert "array_api_compat" in loaded


def test_every_public_name_can_be_imported(monkeypatch):
    monkeypatch.setenv("CAPGPU_BACKEND", "numpy")
    for name in capgpu.__all__:
        assert getattr(capgpu, name) is not None
        assert name in dir(capgpu)


def test_dir_lists_only_the_public_names():
    assert [name for name in dir(capgpu) if not name.startswith("__")] == sorted(capgpu.__all__)
    assert "annotations" not in dir(capgpu)


def test_every_package_is_an_attribute_without_its_own_import(in_new_process):
    code = """
import sys, types
import capgpu
folders = {path.parent.name for path in __import__("pathlib").Path(capgpu.__file__).parent.glob("*/__init__.py")}
assert folders - {"cli", "serve"} <= set(capgpu.__all__), folders
assert not {f"capgpu.{name}" for name in folders} & set(sys.modules)
for name in capgpu.__all__:
    module = getattr(capgpu, name)
    assert not isinstance(module, types.ModuleType) or name == "xp" or module.__name__ == f"capgpu.{name}"
"""
    in_new_process(code, CAPGPU_BACKEND="numpy")


def test_python_dash_m_runs_the_command(in_new_process):
    code = """
import runpy, sys
sys.argv = ["capgpu", "-V"]
try:
    runpy.run_module("capgpu", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""
    assert in_new_process(code).strip() == f"capgpu, version {capgpu.__version__}"


def test_capgpu_layers_has_every_layer_of_the_exercises():
    import capgpu.layers
    from capgpu.layers.cells import CELLS

    expected = {f"{layer}_{way}" for layer in ("affine", "temporal_affine", "word_embedding") for way in WAYS}
    expected |= {f"{cell}{step}_{way}" for cell in CELLS for step in ("", "_step") for way in WAYS}
    expected |= {"dot_product_attention", "dot_product_attention_backward", "temporal_softmax_loss"}
    assert expected == set(capgpu.layers.__all__)
    assert all(callable(getattr(capgpu.layers, name)) for name in capgpu.layers.__all__)


WAYS = ("forward", "backward")


def test_an_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="'capgpu' has no attribute 'set_backened'"):
        capgpu.set_backened  # noqa: B018 - reading it is the test
