"""Zeroed stretches in the image data of JPEG files, which decoders conceal.

JPEG data carry no checksum: a decoder takes damaged bits for codes and goes on. A common damage is a stretch of zeros,
a block of a disk or a piece of a download that was never written. Zero bits are a valid code, the first one of
every Huffman table (ITU-T T.81, annex C). Where this code is a coefficient, a long stretch of zeros means blocks of
which all coefficients have the same value, and no image has these. Where it ends the block, the zeros can be a plain
area of the image and are not reported. Other damage looks like image data until it is decoded, and neither Pillow nor
OpenCV passes on the warnings that libjpeg then gives for some of it.
"""

import re

# Two blocks of 63 coefficients of 3 bits and more.
ZEROS = bytes(64)
EOI, SOS, DHT, AC_TABLE = 0xD9, 0xDA, 0xC4, 1
# The end of a scan: any marker but an escaped 0xff, a restart and fill bytes.
NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def has_zeroed_stretch(data: bytes) -> bool:
    """Whether part of the image data of a JPEG file (its first image) was replaced by zeros."""
    return ZEROS in data and any(ZEROS in scan for scan in _coefficient_scans(data))


def _coefficient_scans(data: bytes) -> list[bytes]:
    """The entropy-coded data of each scan in which zero bits are coefficients."""
    first_symbols: dict[int, int] = {}
    scans, at = [], 2
    while (found := NEXT_MARKER.search(data, at)) and (marker := data[found.start() + 1]) != EOI:
        start = found.end()
        at = start + int.from_bytes(data[start : start + 2], "big")
        header = data[start + 2 : at]
        if marker == DHT:
            first_symbols |= _first_ac_symbols(header)
        elif marker == SOS:
            end = found.start() if (found := NEXT_MARKER.search(data, at)) else len(data)
            if _zeros_are_coefficients(header, first_symbols):
                scans.append(data[at:end])
            at = end
    return scans


def _first_ac_symbols(header: bytes) -> dict[int, int]:
    """{number of an AC table: its first symbol} of a DHT segment."""
    first, at = {}, 0
    while at + 17 < len(header):
        table, count = header[at], sum(header[at + 1 : at + 17])
        if table >> 4 == AC_TABLE and count:
            first[table & 15] = header[at + 17]
        at += 17 + count
    return first


def _zeros_are_coefficients(header: bytes, first_symbols: dict[int, int]) -> bool:
    """Whether the code of zeros is a coefficient for a component of the scan with this SOS segment."""
    count = header[0] if header else 0
    if len(header) != 4 + 2 * count:
        return False
    spectral_end, approximation = header[-2:]
    if spectral_end == 0 or approximation >> 4:  # a scan of DC coefficients, or one that refines coefficients
        return False
    tables = [header[2 + 2 * component] & 15 for component in range(count)]
    # The low half of a symbol is the number of bits of the coefficient; 0 ends the block or skips coefficients.
    return any(first_symbols.get(table, 0) & 15 for table in tables)
