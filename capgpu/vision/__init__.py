"""Feature vectors of pictures: a convolutional network run by onnxruntime, and a projection."""

from capgpu.vision.encoder import Encoded, PictureEncoder, open_encoder
from capgpu.vision.encoder_config import ENCODER_FILE
from capgpu.vision.preprocessing import Picture, Preprocessing, load_picture
from capgpu.vision.projection import Projection, fit_projection

__all__ = [
    "ENCODER_FILE",
    "Encoded",
    "Picture",
    "PictureEncoder",
    "Preprocessing",
    "Projection",
    "fit_projection",
    "load_picture",
    "open_encoder",
]
