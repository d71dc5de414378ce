"""CED plots and contact sheets: curves pass through the right pixels, images land in their cells."""

import numpy as np
from PIL import Image

from jaxface import error_plots


def test_ced_curve_passes_through_the_share_of_errors(tmp_path):
    """Three of four errors are at most half the limit: the curve is at 75 % in the middle of the axis."""
    error_plots.write_ced_plot(tmp_path / "ced.png", {"ours": np.array([0.01, 0.02, 0.03, 0.2])}, 0.1, "NME")
    image = np.asarray(Image.open(tmp_path / "ced.png")).astype(int)
    assert image.shape == (error_plots.HEIGHT, error_plots.WIDTH, 3)
    column, row = error_plots._pixels([0.5], [0.75])[0]
    assert np.abs(image[row, column] - error_plots.CURVE_COLORS[0]).max() < 8
    row_of_half = error_plots._pixels([0.5], [0.5])[0][1]
    assert np.abs(image[row_of_half, column + 8] - error_plots.CURVE_COLORS[0]).max() > 100


def test_contact_sheet_places_images_of_any_size(tmp_path):
    red = np.zeros((50, 100, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    blue = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (300, 300, 3))
    images = [red, blue] * 4
    error_plots.write_contact_sheet(tmp_path / "sheet.png", images, [f"{n}: ü" for n in range(8)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    step_x, step_y = error_plots.CELL + error_plots.CELL_GAP, sheet.shape[0] // 2
    gap = error_plots.CELL_GAP
    assert (sheet[gap + 5, gap + 5] == [255, 0, 0]).all()
    assert (sheet[gap + 5, gap + step_x + 5] == [0, 0, 255]).all()
    assert (sheet[step_y + gap + 5, gap + 5] == [255, 0, 0]).all()
    error_plots.write_contact_sheet(tmp_path / "none.png", [], [])
    assert not (tmp_path / "none.png").exists()


def test_a_missing_folder_is_made(tmp_path):
    error_plots.write_ced_plot(tmp_path / "new" / "ced.png", {"a": np.ones(3)}, 1.0)
    assert (tmp_path / "new" / "ced.png").is_file()
