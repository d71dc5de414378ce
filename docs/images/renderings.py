"""Makes docs/images/renderings.jpg, training images of `continuous:endless`: python docs/images/renderings.py

renderings_0.1.jpg was made in the same way with version 0.1.
"""

import pathlib

import jax
import numpy as np
from PIL import Image

from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.continuous import rendering

FOLDER = pathlib.Path(__file__).parent
SIZE, ROWS, COLUMNS, QUALITY = 128, 4, 9, 85

if __name__ == "__main__":
    head = jax.device_put(rendering.rendering_head(makehuman_head()))
    draw = jax.jit(lambda key: rendering.render_example(head, key, SIZE, 1)["image"])
    images = [np.asarray(draw(jax.random.key(seed))) for seed in range(ROWS * COLUMNS)]
    sheet = np.stack(images).reshape(ROWS, COLUMNS, SIZE, SIZE, 3).swapaxes(1, 2).reshape(ROWS * SIZE, -1, 3)
    Image.fromarray((255 * sheet + 0.5).astype(np.uint8)).save(FOLDER / "renderings.jpg", quality=QUALITY)
