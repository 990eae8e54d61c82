"""Pictures to feature vectors: a convolutional network run by onnxruntime, and a projection."""

from capgpu.vision.description import ENCODER_FILE
from capgpu.vision.encoder import Encoded, PictureEncoder, open_encoder
from capgpu.vision.framing import Framing, load_picture
from capgpu.vision.projection import Projection, fit_projection

__all__ = [
    "ENCODER_FILE",
    "Encoded",
    "Framing",
    "PictureEncoder",
    "Projection",
    "fit_projection",
    "load_picture",
    "open_encoder",
]
