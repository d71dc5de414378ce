"""Parity with Deep3DFaceRecon_pytorch: shape, pose, lighting, camera, losses and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.systems.deep3d import losses, model, objective
from jaxface.systems.deep3d.face_model import load_face_model
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Sizes
from tests import basel, weights

SIZES = Sizes()


@pytest.fixture(scope="module", params=["small", "full"])
def case(request, tmp_path_factory):
    """The golden numbers, the face model read from its file, and the decoded face."""
    golden = np.load(weights.GOLDEN / f"deep3d_decode_{request.param}.npz")
    path = basel.save(tmp_path_factory.mktemp("bfm") / "BFM_model_front.mat", request.param)
    face = load_face_model("bfm", path, (80, 64, 80), "tf")
    with jax.default_matmul_precision("highest"):
        decoded = model.decode(face, SIZES, golden["coeff"])
    return request.param, golden, face, jax.device_get(decoded)


def close(actual, golden, tolerance):
    assert np.abs(actual - golden).max() <= tolerance * np.abs(golden).max()


def test_decoded_face(case):
    _, golden, face, decoded = case
    selected = golden["sel"]
    close(decoded.vertices[:, selected], golden["vertex"], 1e-6)
    close(decoded.albedo[:, selected], golden["texture"], 1e-6)
    close(decoded.colors[:, selected], golden["color"], 1e-5)
    close(decoded.landmarks, golden["landmarks"], 1e-6)
    close(decoded.vertices.sum(1, dtype=np.float64), golden["vertex_sum"], 1e-6)
    close(decoded.colors.sum(1, dtype=np.float64), golden["color_sum"], 1e-6)


def test_rotation_canonical_shape_and_normals(case):
    _, golden, face, decoded = case
    parts = image_formation.split(golden["coeff"], SIZES)
    close(image_formation.rotation(parts.angles).swapaxes(-1, -2), golden["rotation"], 1e-6)
    shape = image_formation.canonical_shape(face, parts.identity, parts.expression)
    close(shape[:, golden["sel"]], golden["shape_canonical"], 1e-5)
    canonical_normals = image_formation.rotate(decoded.normals, image_formation.rotation(parts.angles).swapaxes(-1, -2))
    close(canonical_normals[:, golden["sel"]], golden["normal_canonical"], 1e-5)


@functools.partial(jax.jit, static_argnums=3)
def losses_or_colors(vector, face, target, weighted):
    parts = image_formation.split(vector, SIZES)
    decoded = image_formation.decode(face, parts)
    settings = get_config("reference").loss
    terms = {
        "landmarks": losses.landmark_loss(decoded.landmarks, target),
        "coefficients": losses.coefficient_loss(parts, settings.coefficient_weights),
        "light": losses.monochromatic_light_loss(parts.light),
        "reflectance": losses.reflectance_loss(decoded.albedo, face.skin),
    }
    return (losses.weighted_sum(terms, settings.weights), terms) if weighted else decoded.colors


def test_losses_and_their_gradient(case):
    _, golden, face, _ = case
    value = jax.value_and_grad(losses_or_colors, has_aux=True)
    (total, terms), gradient = value(golden["coeff"], face, golden["gt_lm"], True)
    names = {"landmarks": "lm", "coefficients": "reg", "light": "gamma", "reflectance": "reflc"}
    for name, theirs in names.items():
        close(terms[name], golden[f"loss_{theirs}"], 1e-5)
    close(total, golden["loss_weighted"], 1e-5)
    close(gradient, golden["grad_weighted"], 1e-4)


def test_gradient_of_the_colors(case):
    size, golden, face, decoded = case
    weight = weights.array(f"deep3d.colw.{size}", decoded.colors.shape, 1e-3)
    gradient = jax.grad(lambda vector: (losses_or_colors(vector, face, golden["gt_lm"], False) * weight).sum())(
        golden["coeff"]
    )
    close(gradient, golden["grad_color"], 1e-4)


@pytest.mark.parametrize("visibility", ["scatter", "sort"])
def test_rendered_image_and_both_crop_masks(case, visibility, tmp_path):
    size, golden, face, decoded = case
    if size == "full":
        pytest.skip("the small face covers the code, the full one takes a minute to compile")
    first = jax.tree.map(lambda leaf: leaf[:1], decoded)
    path = basel.save(tmp_path / "BFM_model_front.mat", size)
    render = jax.jit(image_formation.render, static_argnums=(2, 3))
    for crop in ("tf", "pytorch"):
        face = load_face_model("bfm", path, (80, 64, 80), crop)
        rendered = jax.device_get(jax.tree.map(lambda leaf: leaf[0], render(face, first, 224, visibility)))
        mask = np.unpackbits(golden[f"mask_{crop}"]).reshape(224, 224)
        assert (rendered.crop_mask != mask).sum() <= 2, crop
    assert (rendered.covered != (golden["tri_id"] >= 0)).sum() <= 2
    both_covered = rendered.covered[::8, ::8] & (golden["depth_sub"] > 0)
    assert np.abs(rendered.image[::8, ::8] - golden["img_sub"])[both_covered].max() < 1e-4
    assert np.abs(rendered.depth[::8, ::8] - golden["depth_sub"])[both_covered].max() < 1e-4
    np.testing.assert_allclose(rendered.image.mean((0, 1)), golden["img_mean"], rtol=1e-3)


def test_photometric_loss_and_its_gradient():
    golden = np.load(weights.GOLDEN / "deep3d_image_losses.npz")
    image, target = (weights.image(f"deep3d.{name}", (2, 224, 224, 3)) for name in "ab")
    mask = np.float32(weights.image("deep3d.m", (2, 224, 224, 1))[..., 0] > 0.45)
    loss, gradient = jax.value_and_grad(losses.photometric_loss)(image, target, mask)
    close(loss, golden["photo"], 1e-5)
    close(gradient.transpose(0, 3, 1, 2)[:, :, ::16, ::16], golden["photo_grad_sub"], 1e-4)


def test_skin_attention_rules_and_an_empty_mask():
    posterior = jnp.array([0.0, 0.4, 0.6])
    np.testing.assert_allclose(losses.skin_attention(posterior, "paper"), [0, 0.4, 1])
    np.testing.assert_allclose(losses.skin_attention(posterior, "posterior"), posterior)
    image = jnp.ones((1, 4, 4, 3))
    loss, gradient = jax.value_and_grad(losses.photometric_loss)(image, 0 * image, jnp.zeros((1, 4, 4)))
    assert loss == 0 and not gradient.any()


def test_faces_at_and_behind_the_camera_give_finite_gradients(case):
    size, golden, face, _ = case
    if size == "full":
        pytest.skip("independent of the size of the face")
    depths = jnp.array([10.0, 20.0, 4.0, 0.0, -15.0])
    vectors = jnp.zeros((len(depths), 257)).at[:, 256].set(depths)
    settings = get_config("reference").loss
    settings.attention = "none"
    batch = {"image": jnp.full((len(depths), 32, 32, 3), 0.5), "landmarks": jnp.asarray(golden["gt_lm"])}

    @jax.jit
    @jax.value_and_grad
    def whole_loss(vector, face, batch):
        terms = objective.hybrid_terms({"face": face}, image_formation.split(vector, SIZES), batch, settings)
        return losses.weighted_sum(terms, settings.weights)

    total, gradient = whole_loss(vectors, face, batch)
    assert np.isfinite(total) and np.isfinite(gradient).all() and gradient.any(1).all()
