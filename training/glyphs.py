"""The 5 x 7 bitmap font of the signs: capitals and digits, as horizontal runs per row."""

from __future__ import annotations

from typing import Final

GLYPH_WIDTH: Final = 5
GLYPH_HEIGHT: Final = 7
ADVANCE: Final = 6

_ROWS: Final[dict[str, str]] = {  # seven rows of five bits each, one base-32 digit (0-9, a-v) per row
    "A": "ehhvhhh", "B": "uhhuhhu", "C": "ehggghe", "D": "uhhhhhu", "E": "vgguggv", "F": "vgguggg", "G": "ehgnhhf",
    "H": "hhhvhhh", "I": "e44444e", "J": "72222ic", "K": "hikokih", "L": "ggggggv", "M": "hrllhhh", "N": "hhpljhh",
    "O": "ehhhhhe", "P": "uhhuggg", "Q": "ehhhlid", "R": "uhhukih", "S": "fgge11u", "T": "v444444", "U": "hhhhhhe",
    "V": "hhhhha4", "W": "hhhllra", "X": "hha4ahh", "Y": "hhha444", "Z": "v1248gv", "0": "ehjlphe", "1": "4c4444e",
    "2": "eh1248v", "3": "v2421he", "4": "26aiv22", "5": "vgu11he", "6": "68guhhe", "7": "v124888", "8": "ehhehhe",
    "9": "ehhf12c",
}  # fmt: skip


def _runs(bits: int) -> tuple[tuple[int, int], ...]:
    """(start column, length) of each run of set bits, leftmost first."""
    row = f"{bits:0{GLYPH_WIDTH}b}"
    runs: list[tuple[int, int]] = []
    for column, bit in enumerate(row):
        if bit == "0":
            continue
        if runs and sum(runs[-1]) == column:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((column, 1))
    return tuple(runs)


GLYPHS: Final[dict[str, tuple[tuple[tuple[int, int], ...], ...]]] = {
    letter: tuple(_runs(int(row, 32)) for row in rows) for letter, rows in _ROWS.items()
}
