"""Camera of a synthetic photograph: exposure, tone curve, lens and motion blur, resolution, sensor noise, JPEG blocks.

Images are (S,S,3) float32 in [0,1], S pixels per side.
"""

import jax
import jax.numpy as jnp
import numpy as np

BLUR_TAPS = 9
MOTION_TAPS = 7
# Longest shift of an image that moves, to each side.
REACH_PX = 6
MOTION_SHARE, JPEG_SHARE, SHADOW_SHARE = 0.12, 0.5, 0.2
# Share of photos with fewer pixels than the image, and the largest number of image pixels per pixel of the photo.
SMALL_SHARE, LARGEST_PIXEL = 0.3, 4.0
BLOCK = 8
# Quantisation steps of luma and chroma at quality 50 are about these at the lowest frequency, and grow by this slope.
LUMA_STEP, CHROMA_STEP, STEP_SLOPE = 14.0, 18.0, 7.0
# Rows are Y, Cb and Cr of the JFIF standard.
TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


def blur(image: jax.Array, sigma_px: jax.Array) -> jax.Array:
    """Separable Gaussian blur of (S,S,3) by `sigma_px` ()."""
    taps = jnp.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = jnp.exp(-0.5 * (taps / sigma_px) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        # Without the barrier XLA recomputes everything before the blur for every tap.
        image = jax.lax.optimization_barrier(image)
        pad = [(0, 0)] * 3
        pad[axis] = (BLUR_TAPS // 2, BLUR_TAPS // 2)
        padded = jnp.pad(image, pad, mode="edge")
        windows = (jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(BLUR_TAPS))
        image = sum(w * window for w, window in zip(weights, windows, strict=True))
    return image


def motion_blur(image: jax.Array, path_px: jax.Array) -> jax.Array:
    """Mean of (S,S,3) along the straight path (2,) px, x before y, rounded to pixels."""
    size = len(image)
    padded = jnp.pad(image, [(REACH_PX, REACH_PX), (REACH_PX, REACH_PX), (0, 0)], mode="edge")
    along = path_px * np.linspace(-0.5, 0.5, MOTION_TAPS, dtype=np.float32)[:, None]
    offsets = jnp.clip(jnp.round(along), -REACH_PX, REACH_PX).astype(jnp.int32) + REACH_PX

    def slices(padded: jax.Array, offsets: jax.Array) -> jax.Array:
        return sum(jax.lax.dynamic_slice(padded, (y, x, 0), (size, size, 3)) for x, y in offsets)

    def products(padded: jax.Array, offsets: jax.Array) -> jax.Array:
        wanted = jnp.arange(size) + offsets[..., None]
        columns, rows = jnp.moveaxis((wanted[..., None] == jnp.arange(len(padded))).astype(jnp.float32), 1, 0)
        return jnp.einsum("tyi,ijc,txj->yxc", rows, padded, columns, precision="highest")

    # A batch of slices at different places is a loop over the images on TPUs.
    total = jax.lax.platform_dependent(padded, offsets, cpu=slices, default=products)
    return total / MOTION_TAPS


def _cosines() -> np.ndarray:
    """Orthonormal DCT-II (8,8), frequencies along the first axis."""
    frequency, place = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    basis = np.cos(np.pi * (2 * place + 1) * frequency / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def jpeg(image: jax.Array, coarseness: jax.Array) -> jax.Array:
    """`image` (S,S,3) with 8 x 8 DCT coefficients rounded to steps times `coarseness` (); 1 is about quality 50."""
    size = len(image)
    padded = jnp.pad(image, [(0, -size % BLOCK), (0, -size % BLOCK), (0, 0)], mode="edge")
    count = len(padded) // BLOCK
    blocks = (255.0 * padded @ TO_YCBCR.T).reshape(count, BLOCK, count, BLOCK, 3)
    cosines = _cosines()
    spectrum = jnp.einsum("ui,aibjc,vj->aubvc", cosines, blocks, cosines)
    slope = STEP_SLOPE * (np.arange(BLOCK)[:, None] + np.arange(BLOCK))
    steps = np.stack([LUMA_STEP + slope, CHROMA_STEP + 1.5 * slope, CHROMA_STEP + 1.5 * slope], -1)
    steps = coarseness * jnp.asarray(steps[:, None], jnp.float32)
    rounded = jnp.round(spectrum / steps) * steps
    decoded = jnp.einsum("ui,aubvc,vj->aibjc", cosines, rounded, cosines).reshape(padded.shape)
    return (decoded @ np.linalg.inv(TO_YCBCR).T.astype(np.float32) / 255.0)[:size, :size]


def resampling(size: int, pixel: jax.Array, phase: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Matrices (S,S) that reduce the rows of an image of S = `size`, and enlarge them again.

    Args:
        size: number of rows S.
        pixel: () rows per row of the reduced image, at least 1. Those after its last one, about S / `pixel`, repeat it.
        phase: () in [0,1), share of the first reduced row that lies outside the image.

    Returns:
        reduce: mean of the rows that a reduced row covers; enlarge: linear interpolation between their centres.
    """
    rows = jnp.arange(size, dtype=jnp.float32)
    start = jnp.minimum((rows - phase) * pixel, size - pixel)[:, None]
    covered = jnp.clip(jnp.minimum(start + pixel, rows + 1.0) - jnp.maximum(start, rows), 0.0)
    place = jnp.clip((rows[:, None] + 0.5) / pixel + phase - 0.5, 0.0, size - 1.0)
    return covered / covered.sum(1, keepdims=True), jnp.clip(1.0 - abs(place - rows), 0.0)


def _along_both(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Matrices (S,S) applied to the rows and to the columns of `image` (S,S,3)."""
    return jnp.einsum("iy,yxc,jx->ijc", rows, image, columns)


def expose(key: jax.Array, image: jax.Array) -> jax.Array:
    """Random camera: edge of a shadow, exposure, tone curve, blur, resolution, noise, compression; (S,S,3) in [0,1]."""
    noise_key, normal_key, uniform_key = jax.random.split(key, 3)
    gauss, random = jax.random.normal(normal_key, (10,)), jax.random.uniform(uniform_key, (16,))
    x = jnp.arange(len(image), dtype=jnp.float32) / len(image)
    normal = gauss[:2]
    edge = normal[0] * x + normal[1] * x[:, None] + 0.7 * gauss[2]
    lit = jax.nn.sigmoid(edge * (2.0 + 28.0 * random[2]))
    depth = (0.5 * random[3]) * (random[4] < SHADOW_SHARE)
    balance = jnp.exp(0.15 * gauss[3] + 0.04 * gauss[4:7])
    image = image * (1.0 - depth * (1.0 - lit[..., None])) * balance
    contrast = -0.15 + 0.7 * random[7]
    image = jnp.clip(image, 0.0, 1.0)
    image = image + contrast * image * (1.0 - image) * (2.0 * image - 1.0)
    # A sum of slices is fused; a mean over so short an axis is not.
    grey = (image[..., :1] + image[..., 1:2] + image[..., 2:]) / 3
    image = grey + (image - grey) * (0.6 + 0.65 * random[8])
    sigma = 0.3 + 1.5 * random[9] ** 2
    image = blur(image, sigma)
    path = 3.5 * gauss[7:9]
    moving = random[11] < MOTION_SHARE
    image = jax.lax.cond(moving, lambda image: motion_blur(image, path), lambda image: image, image)
    few_pixels = random[6] < SMALL_SHARE
    pixel = LARGEST_PIXEL ** random[5]
    (reduce_y, enlarge_y), (reduce_x, enlarge_x) = (resampling(len(image), pixel, random[i]) for i in (0, 1))
    image = jax.lax.cond(few_pixels, lambda image: _along_both(reduce_y, reduce_x, image), lambda image: image, image)
    # Shot noise grows with brightness, read noise does not.
    strength = 0.05 * random[12] ** 2
    level = strength * (0.35 + 0.65 * jnp.sqrt(jnp.clip(image, 0.0, 1.0)))
    image = image + level * jax.random.normal(noise_key, image.shape)
    coarseness = jnp.exp(-2.2 + 2.6 * random[14])
    compressed = random[15] < JPEG_SHARE
    image = jax.lax.cond(compressed, lambda image: jpeg(image, coarseness), lambda image: image, image)
    image = jax.lax.cond(few_pixels, lambda image: _along_both(enlarge_y, enlarge_x, image), lambda image: image, image)
    return jnp.clip(image, 0.0, 1.0)
