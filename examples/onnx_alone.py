"""Labels for images from a file that `gossamer export` wrote, with onnxruntime, numpy and Pillow alone.

python onnx_alone.py model.onnx image.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = json.loads(session.get_modelmeta().custom_metadata_map["gossamer"])
how = told["preprocessing"]

for name in sys.argv[2:]:
    image, size = ImageOps.exif_transpose(Image.open(name)).convert("RGB"), how["size"]
    filter = Image.Resampling[how["interpolation"].upper()]
    if how["resize"] == "direct":
        image = image.resize((size, size), filter)
    else:
        short = round(size / how["crop"])
        image = image.resize([int(short * side / min(image.size)) for side in image.size], filter)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(how["mean"])) / np.float32(how["std"])
    (logits,) = session.run(["logits"], {"pixel_values": pixels.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{name}  {told['labels'][shares.argmax()]} {shares.max():.1%}")
