"""Draws the diagrams of the system pages, docs/images/<system>.svg: python docs/images/diagrams.py"""

import html
import pathlib

WIDTH, BOX, HEIGHT, GAP, MARGIN = 1010, 170, 84, 30, 20

# Rows of (title, description); an arrow leads from each box to the next.
DIAGRAMS = {
    "continuous": [
        [
            ("photo", "face box,\naligned crop"),
            ("encoder", "feature map\nof the crop"),
            ("predictor", "attention over the\nmap per query"),
            ("soft-argmax", "mean position,\nread-out"),
            ("points", "(x, y) and sigma\nof each query"),
        ],
        [
            ("template", "any 3D points of\nthe canonical face"),
            ("query encoder", "MLP, 64 features\nper point"),
            ("to the predictor", "queries are\nindependent"),
        ],
    ],
    "pipnet": [
        [
            ("crop", "256 px"),
            ("backbone", "ResNet, MobileNet;\nstride 32: 8 x 8"),
            ("1x1 heads", "score, offset,\nneighbour offsets"),
            ("argmax cell", "own point and\nvotes for neighbours"),
            ("merge", "mean of own point\nand all votes"),
        ],
    ],
    "jvcr": [
        [
            ("crop", "256 px"),
            ("hourglasses", "4 stacks, coarse\nto fine in depth"),
            ("volume", "64 x 64 x 64,\nall points in one"),
            ("3D encoder", "five 3D\nconvolutions"),
            ("coordinates", "71 points\n(x, y, z)"),
        ],
    ],
    "deep3d": [
        [
            ("photo", "68 points, aligned\n224 px crop"),
            ("R-Net", "coefficients: shape,\ncolour, pose, light"),
            ("3D head", "linear model,\npinhole camera"),
            ("renderer", "spherical harmonics,\nrasterised"),
            ("loss", "photo, landmarks,\nidentity, priors"),
        ],
        [
            ("several photos", "of one person"),
            ("C-Net", "confidence per\nidentity coefficient"),
            ("weighted mean", "one identity\nfor all"),
        ],
    ],
    "nphm": [
        [
            ("codes", "identity (global,\nlocal), expression"),
            ("anchors", "39 points of\nthe head"),
            ("local MLPs", "signed distance in\neach anchor's frame"),
            ("blend", "Gaussian weights:\nhead at rest"),
            ("mesh", "marching cubes"),
        ],
        [
            ("expression", "code per scan"),
            ("deformation", "offset field from\nrest to posed"),
            ("fit to a scan", "backward warp,\ncodes by Adam"),
        ],
    ],
}


def svg(rows: list[list[tuple[str, str]]]) -> str:
    """The diagram as SVG text; colours are readable on light and dark pages."""
    height = MARGIN * 2 + len(rows) * HEIGHT + (len(rows) - 1) * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#5c6bc0"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for row, boxes in enumerate(rows):
        y = MARGIN + row * (HEIGHT + GAP)
        for column, (title, text) in enumerate(boxes):
            x = MARGIN + column * (BOX + GAP)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#e8eaf6" stroke="#5c6bc0"/>'
                f'<text x="{x + BOX / 2}" y="{y + 25}" text-anchor="middle" font-size="16" font-weight="bold" '
                f'fill="#1a237e">{html.escape(title)}</text>'
            )
            for line, words in enumerate(text.split("\n")):
                parts.append(
                    f'<text x="{x + BOX / 2}" y="{y + 48 + 19 * line}" text-anchor="middle" font-size="14" '
                    f'fill="#333333">{html.escape(words)}</text>'
                )
            if column + 1 < len(boxes):
                start, middle = x + BOX, y + HEIGHT / 2
                parts.append(
                    f'<path d="M{start + 3} {middle}h{GAP - 6}" stroke="#5c6bc0" stroke-width="2" fill="none" '
                    'marker-end="url(#tip)"/>'
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    for name, rows in DIAGRAMS.items():
        (pathlib.Path(__file__).parent / f"{name}.svg").write_text(svg(rows), "utf-8")
