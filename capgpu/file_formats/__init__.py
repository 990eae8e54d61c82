"""Readers of untrusted bytes, one per format: limits before memory is used, and errors that name file and place.

JSON is read by `capgpu.file_formats.json_text` alone, ``.npy`` and ``.npz`` by `capgpu.file_formats.npy`, HDF5 by
`capgpu.file_formats.hdf5`, in a process of its own. The readers of other formats are elsewhere: safetensors in
`capgpu.checkpoint`, text in `capgpu.data.text_files`, tables in `capgpu.data.captions_table`, PyTorch's files in
`capgpu.vision.state_dict`, ONNX in `capgpu.vision.network`, pictures in `capgpu.vision.preprocessing`.
``python -m tools.fuzz`` fuzzes them all.
"""
