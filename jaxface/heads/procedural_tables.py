"""The tables of the procedural head's modes: where each one acts, how far it reaches and what it does, in mm."""

import dataclasses

EYE = (31.3, 35.0, 92.0)
EAR = (78.0, 11.0, -10.0)
MOUTH = (0.0, -34.0, 108.0)
CORNER = (26.0, -35.0, 101.0)
FAR = 1e4


@dataclasses.dataclass(frozen=True)
class Field:
    """Displacement exp(-|(p - center) / radii|^2 / 2) * (move + linear (p - center)).

    `linear` is a diagonal (3,) or a matrix (3,3). `part`: "all", or only what lies "upper" or "lower" of the lips.
    """

    center: tuple
    radii: tuple
    move: tuple = (0.0, 0.0, 0.0)
    linear: tuple = (0.0, 0.0, 0.0)
    part: str = "all"


def _up_by_side(slope: float) -> tuple:
    """The matrix that lifts by `slope` mm per mm to the side."""
    return ((0, 0, 0), (slope, 0, 0), (0, 0, 0))


# Fields beside the middle (center x > 0) act on both sides alike.
SYMMETRIC = {
    "head_size": [Field((0, 0, 0), (FAR, FAR, FAR), linear=(0.03, 0.03, 0.03))],
    "head_width": [Field((0, 65, 0), (FAR, 80, FAR), linear=(0.035, 0, 0))],
    "head_length": [Field((0, 50, -40), (FAR, 90, 60), linear=(0, 0, 0.1))],
    "head_height": [Field((0, 120, 0), (FAR, 50, FAR), (0, 4.5, 0))],
    "face_width": [Field((0, 0, 40), (FAR, 55, 60), linear=(0.04, 0, 0))],
    "face_length": [Field((0, 32, 60), (FAR, 130, 90), linear=(0, 0.035, 0))],
    "jaw_width": [Field((52, -48, 35), (28, 28, 40), (3.5, 0, 0))],
    "jaw_angle": [Field((52, -52, 25), (25, 26, 32), (0.5, -4.0, 0))],
    "jaw_forward": [Field((0, -58, 95), (55, 26, 60), (0, 0, 2.4))],
    "chin_height": [Field((0, -76, 95), (36, 20, 45), (0, -3.6, 0))],
    "chin_protrusion": [Field((0, -66, 105), (28, 18, 40), (0, 0, 3.2))],
    "chin_width": [Field((0, -70, 95), (28, 18, 35), linear=(0.15, 0, 0))],
    "throat": [Field((0, -95, 58), (34, 20, 35), (0, -4.0, 1.0))],
    "forehead_slope": [Field((0, 104, 80), (60, 32, 50), (0, 0, -4.0))],
    "forehead_width": [Field((56, 82, 50), (26, 34, 42), (2.4, 0, 0))],
    "forehead_bulge": [Field((0, 84, 100), (32, 18, 40), (0, 0, 2.2))],
    "brow_ridge": [Field((24, 55, 104), (20, 8, 25), (0, -0.4, 2.0)), Field((0, 55, 108), (12, 8, 25), (0, 0, 1.0))],
    "brow_height": [Field((34, 60, 100), (24, 11, 40), (0, 2.2, 0))],
    "temple_depth": [Field((68, 55, 50), (20, 26, 28), (-2.4, 0, 0))],
    "eye_size": [Field(EYE, (17, 13, 30), linear=(0.05, 0.05, 0.04))],
    "eye_spacing": [Field(EYE, (22, 20, 40), (1.5, 0, 0))],
    "eye_height": [Field(EYE, (26, 22, 50), (0, 2.0, 0))],
    "eye_depth": [Field(EYE, (24, 18, 40), (0, 0, -2.0))],
    "canthal_tilt": [Field(EYE, (16, 11, 30), linear=_up_by_side(0.07))],
    "eyelid_openness": [Field(EYE, (15, 7, 20), linear=(0, 0.14, 0))],
    "eyelid_fold": [Field((33, 45, 95), (16, 3.5, 12), (0, -0.8, 1.6))],
    "eyelid_bags": [Field((30, 24, 94), (13, 5, 14), (0, 0, 1.3))],
    "nose_length": [Field((0, -4, 117), (22, 14, 35), (0, -2.6, 0))],
    "nose_bridge_width": [Field((0, 20, 112), (14, 17, 22), linear=(0.16, 0, 0))],
    "nose_alar_width": [Field((0, -4, 112), (20, 11, 25), linear=(0.13, 0, 0))],
    "nose_protrusion": [Field((0, 0, 128), (16, 16, 22), (0, 0, 2.8))],
    "nose_tip_up": [Field((0, 2, 128), (13, 12, 16), (0, 2.2, 0.4))],
    "nose_hump": [Field((0, 19, 120), (9, 9, 16), (0, 0, 1.7))],
    "nose_root": [Field((0, 40, 106), (12, 10, 18), (0, 0, 1.9))],
    "nose_tip_size": [Field((0, 1, 125), (10, 9, 12), linear=(0.14, 0.1, 0.08))],
    "mouth_width": [Field(MOUTH, (34, 13, 35), linear=(0.08, 0, 0))],
    "mouth_height": [Field(MOUTH, (36, 14, 40), (0, 1.9, 0))],
    "mouth_protrusion": [Field(MOUTH, (26, 17, 40), (0, 0, 2.3))],
    "mouth_corners": [Field(CORNER, (11, 8, 20), (0, 1.3, 0))],
    "lip_upper_fullness": [Field((0, -25, 116), (20, 4, 12), (0, 1.2, 0.9), part="upper")],
    "lip_lower_fullness": [Field((0, -43, 113), (20, 4.5, 12), (0, -1.3, 0.9), part="lower")],
    "cheekbones": [Field((54, 13, 82), (18, 14, 30), (2.0, 0, 2.2))],
    "cheek_fullness": [Field((46, -25, 82), (20, 23, 35), (2.6, 0, 2.6))],
    "nasolabial_fold": [Field((27, -15, 102), (8, 14, 18), (0, 0, 1.5))],
    "ear_size": [Field(EAR, (30, 36, 26), linear=(0, 0.08, 0.08))],
    "ear_flare": [Field((90, 13, -16), (13, 34, 20), (3.0, 0, 0.5))],
    "neck_width": [Field((0, -135, -8), (FAR, 40, FAR), linear=(0.08, 0, 0.05))],
}

# Fields beside the middle act on the other side with the opposite sign.
ASYMMETRIC = {
    "asymmetric_nose_bend": [Field((0, 2, 124), (13, 20, 22), (1.8, 0, 0))],
    "asymmetric_jaw_shift": [Field((0, -65, 95), (50, 26, 60), (2.0, 0, 0))],
    "asymmetric_jaw_width": [Field((52, -48, 38), (26, 28, 40), (1.8, 0, 0))],
    "asymmetric_eye_height": [Field(EYE, (24, 18, 45), (0, 1.0, 0))],
    "asymmetric_brow_height": [Field((34, 60, 100), (24, 11, 40), (0, 1.3, 0))],
    "asymmetric_mouth_tilt": [Field(MOUTH, (34, 14, 40), linear=_up_by_side(0.045))],
    "asymmetric_mouth_shift": [Field(MOUTH, (34, 15, 40), (1.4, 0, 0))],
    "asymmetric_cheeks": [Field((48, -10, 82), (24, 34, 38), (0.8, 0, 1.6))],
}

WHOLE_EXPRESSIONS = {
    "mouthPucker": [
        Field(MOUTH, (34, 20, 40), (0, 0.5, 6.0), (-0.22, 0, 0)),
        Field(CORNER, (10, 9, 20), (-2.0, 0.5, 3.5)),
        Field((0, -27, 116), (13, 5, 12), (0, 1.4, 1.5), part="upper"),
        Field((0, -42, 114), (13, 5, 12), (0, -1.4, 1.5), part="lower"),
    ],
    "mouthFunnel": [
        Field((0, -29, 114), (24, 9, 30), (0, 5.5, 4.5), part="upper"),
        Field((0, -40, 112), (24, 10, 30), (0, -7.5, 4.5), part="lower"),
        Field(CORNER, (10, 9, 20), (-3.5, 0, 5.0)),
    ],
    "mouthLeft": [Field(MOUTH, (32, 15, 40), (9.0, 1.0, -1.5))],
    "mouthRight": [Field(MOUTH, (32, 15, 40), (-9.0, 1.0, -1.5))],
    "mouthRollUpper": [Field((0, -30, 116), (22, 6, 14), (0, -3.0, -3.5), part="upper")],
    "mouthRollLower": [Field((0, -40, 115), (22, 6, 14), (0, 4.0, -3.5), part="lower")],
}

# The left ones of pairs; fields act where they stand only.
LEFT_EXPRESSIONS = {
    "mouthSmile": [
        Field(CORNER, (14, 12, 25), (6.5, 8.5, -7.0)),
        Field((44, -6, 92), (17, 15, 25), (1.0, 4.0, 3.0)),
        Field((33, 26, 93), (14, 5, 15), (0, 0.8, 0.3)),
    ],
    "mouthFrown": [Field(CORNER, (12, 10, 22), (1.5, -5.0, -1.5)), Field((14, -52, 108), (12, 8, 20), (0, 1.5, 1.0))],
    "mouthStretch": [Field(CORNER, (14, 13, 25), (6.5, -3.0, -6.0))],
    "mouthDimple": [Field(CORNER, (10, 9, 22), (2.5, 1.5, -5.0))],
    "mouthUpperUp": [
        Field((9, -27, 115), (11, 11, 25), (0, 5.0, 0), part="upper"),
        Field((20, -10, 105), (9, 10, 18), (0.5, 3.0, 1.0)),
    ],
    "mouthLowerDown": [Field((10, -42, 112), (11, 10, 25), (0.5, -4.5, -1.0), part="lower")],
    "eyeWide": [Field((31, 41, 95), (13, 5, 14), (0, 2.8, -0.8))],
    "eyeSquint": [Field((31, 28, 94), (15, 5, 15), (0, 2.2, 0.5))],
    "browDown": [
        Field((24, 60, 104), (20, 10, 22), (-2.5, -4.0, 2.0)),
        Field((50, 59, 90), (14, 10, 20), (-1.5, -1.5, 2.0)),
    ],
    "browInnerUp": [Field((13, 60, 107), (12, 12, 25), (0.4, 5.0, -0.5))],
    "browOuterUp": [Field((44, 62, 95), (18, 12, 25), (1.5, 6.5, -2.5))],
    "cheekPuff": [
        Field((45, -32, 88), (19, 19, 30), (4.0, 1.0, 8.0)),
        Field((10, -32, 114), (18, 14, 20), (0, 0, 3.0)),
    ],
    "cheekSquint": [Field((38, 14, 95), (16, 11, 20), (0, 3.5, 2.0))],
    "noseSneer": [
        Field((15, -3, 108), (9, 11, 18), (0.5, 5.0, 0.5)),
        Field((10, 22, 108), (8, 13, 14), (-0.3, 2.0, 0.8)),
        Field((12, 58, 107), (10, 8, 20), (-0.5, -2.5, 0.5)),
    ],
}
