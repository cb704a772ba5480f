"""A sheet laid over the window: the list of keys, or network, device and times."""

from __future__ import annotations

from collections.abc import Callable

from PyQt5.QtWidgets import QLabel, QWidget

from manypose.app.viewer import look

KEYS: tuple[tuple[str, str], ...] = (
    ("Space", "pause, go on"),
    ("R", "record a session"),
    ("S", "snapshot of the window"),
    ("M", "mirror the view (data stay)"),
    ("V", "video, 3D or both"),
    ("D", "3D only, and back"),
    ("1 2 3", "smoothing: steady, normal, fast"),
    ("F", "follow the nearest person"),
    ("G", "floor grid"),
    ("O", "skeletons over the video"),
    ("B", "network, device, time per stage"),
    ("Home", "first view of the 3D pane"),
    ("← →", "replay: one frame back or on"),
    ("↑ ↓", "replay: faster, slower"),
    ("F11", "full screen"),
    ("?", "this list"),
    ("Esc", "finish files and leave"),
)


class Sheet(QLabel):
    """Hidden until a key asks for one of its two sides; the same key hides it again."""

    def __init__(self, over: QWidget, details: Callable[[], str]) -> None:
        super().__init__(over)
        self._over = over
        self._details = details
        self._side = ""
        self.setStyleSheet(
            f"background: rgba(14, 18, 25, 235); border: 1px solid {look.LINE};"
            " border-radius: 12px; padding: 22px; font-size: 14px;"
        )
        self.hide()

    def toggle_keys(self) -> None:
        """Show or hide the list of keys."""
        self._toggle("keys")

    def toggle_details(self) -> None:
        """Show or hide network, device and times."""
        self._toggle("details")

    def refresh(self) -> None:
        """Bring the numbers up to date."""
        if self.isVisible() and self._side == "details":
            self._lay()

    def _toggle(self, side: str) -> None:
        if self.isVisible() and self._side == side:
            self.hide()
            return
        self._side = side
        self._lay()
        self.show()
        self.raise_()

    def _lay(self) -> None:
        if self._side == "keys":
            rows = "".join(
                f"<tr><td style='padding:3px 26px 3px 0'><b>{key}</b></td>"
                f"<td style='padding:3px 0'>{what}</td></tr>"
                for key, what in KEYS
            )
            self.setText(f"<table>{rows}</table>")
        else:
            self.setText(f"<pre>{self._details()}</pre>")
        self.adjustSize()
        room = self._over.size()
        self.move((room.width() - self.width()) // 2, (room.height() - self.height()) // 2)
