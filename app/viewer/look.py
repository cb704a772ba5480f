"""The look of the window: colours of people and the dark style sheet.

The palette is fixed and cyclic, because an identity must keep its colour for life.
"""

from __future__ import annotations

BACKGROUND = "#0e1219"
PANEL = "#161c27"
LINE = "#263042"
TEXT = "#e6ebf4"
FAINT = "#8793a8"
ACCENT = "#4cc9f0"
AMBER = "#ffb454"
RED = "#ff5d5d"
LEVEL_COLOURS = {"ok": TEXT, "amber": AMBER, "red": RED}

# Bright, well apart on a dark ground, neighbours differ in hue and in lightness (red is kept for
# recording and alarms).
PEOPLE: tuple[tuple[int, int, int], ...] = (
    (255, 159, 69), (76, 201, 240), (167, 227, 75), (241, 91, 181), (255, 224, 102),
    (155, 140, 255), (46, 230, 168), (255, 138, 122), (91, 140, 255), (224, 176, 132),
)  # fmt: skip


def person_colour(track_id: int) -> tuple[int, int, int]:
    """Return the RGB colour (0..255) of an identity; the same id always has the same one."""
    return PEOPLE[track_id % len(PEOPLE)]


STYLE = f"""
* {{ font-family: "Inter", "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; font-size: 13px; }}
QMainWindow, QWidget {{ background: {BACKGROUND}; color: {TEXT}; }}
QWidget#panel {{ background: {PANEL}; border-left: 1px solid {LINE}; }}
QWidget#panel QWidget, QWidget#panel QLabel {{ background: {PANEL}; }}
QLabel#heading {{ color: {FAINT}; font-size: 11px; font-weight: 600; }}
QLabel#faint {{ color: {FAINT}; }}
QLabel#status {{ background: {PANEL}; border-top: 1px solid {LINE}; padding: 6px 12px;
    font-family: "JetBrains Mono", "DejaVu Sans Mono", monospace; font-size: 12px; }}
QSplitter::handle {{ background: {LINE}; }}
QPushButton, QComboBox, QToolButton {{ background: #1f2836; color: {TEXT};
    border: 1px solid {LINE}; border-radius: 6px; padding: 6px 10px; }}
QPushButton:hover, QComboBox:hover, QToolButton:hover {{ border-color: {ACCENT}; }}
QPushButton:checked, QToolButton:checked {{ background: #1c4257; border-color: {ACCENT}; }}
QPushButton:disabled, QComboBox:disabled {{ color: #55607a; }}
QPushButton#record {{ font-weight: 600; padding: 9px 10px; }}
QPushButton#record:checked {{ background: #5a1f27; border-color: {RED}; }}
QComboBox::drop-down {{ border: none; width: 22px; }}
QComboBox::down-arrow {{ width: 0; height: 0; border-left: 4px solid #1f2836;
    border-right: 4px solid #1f2836; border-top: 5px solid {FAINT}; }}
QComboBox QAbstractItemView {{ background: {PANEL}; color: {TEXT}; border: 1px solid {LINE};
    selection-background-color: #1c4257; }}
QSlider::groove:horizontal {{ height: 4px; background: {LINE}; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {ACCENT}; border-radius: 2px; }}
QSlider::handle:horizontal {{ background: {TEXT}; width: 14px; height: 14px; margin: -5px 0;
    border-radius: 7px; }}
QToolTip {{ background: {PANEL}; color: {TEXT}; border: 1px solid {LINE}; }}
"""
