"""The network of portraits as a callable: people found in a picture are each looked at again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from manypose.errors import WeightsError
from manypose.models import choice, weights
from manypose.models.preprocess import BORDER, scale_parts
from manypose.models.sessions import Array, Wish
from manypose.pose import portraits
from manypose.pose.close_ups import cut_off, middle, unsure, with_middle
from manypose.pose.joints import MIRROR, MIRROR_2D
from manypose.pose.portraits import (
    EVERYBODY,
    HEIGHT,
    LARGEST,
    SHEET_HEIGHT,
    WIDTH,
    Part,
)
from manypose.pose.records import Float, Person2D, Picture, UInt8

log = logging.getLogger(__name__)

NAME = "portrait"
_MIRRORED = [*MIRROR_2D, *(len(MIRROR_2D) + k for k in MIRROR_2D)]
_TOGETHER = 4
_TURNS, _TURNS_OF_VIDEOS = 3, 2  # looks at one person: the second brings most
Answer = Callable[[UInt8], dict[str, Array]]


class Portraits:
    """Reads the joints of each person again in a small picture of their own.

    answer: the network, sheets (N, 240, 96, 3) uint8 to "heatmaps" (N, K, h, w) and "bones" (N,
    3 J). bones: whether these are passed on. most: people who are looked at, the largest;
    from EVERYBODY on the unlikely ones, too. crowds: False, nobody is where there are more.
    Whose portrait shows them elsewhere is looked at once more, told what was read. looks: at a
    picture; what is left of them once everybody had theirs goes to the largest, each of whom is
    looked at up to `turns` times, from nearer, the third time told the reading of the whole picture
    again. close_ups: where nobody is sure or somebody is too large for the picture, its middle is
    looked at as well, at first told nothing. title: which file runs where.
    """

    def __init__(
        self, answer: Answer, bones: bool = True, most: int = EVERYBODY, title: str = "",
        crowds: bool = True, looks: int = 0, turns: int = 3, close_ups: bool = False,
    ) -> None:  # fmt: skip
        self.title = title
        self._looks = looks
        self._turns = turns
        self._close_ups = close_ups
        self._answer = answer
        self._bones = bones
        self._most = most
        self._crowds = crowds

    def __call__(
        self, picture: UInt8 | Picture, people: Sequence[Person2D], width: int, height: int
    ) -> list[Person2D]:
        """Return the people of a picture of width x height px as their portraits show them.

        Who is nobody in their portrait, or somebody else once more, is left out; best first. Of
        whom the portrait shows somebody else found, or who is not looked at, the first reading
        stays.
        """
        known = [p for p in people if (p.confidence > 0).any()]
        kept = self._own(picture, known, width, height) if known else []
        if self._close_ups and (cut_off(known, width, height) or unsure(kept)):
            person = self._in_the_middle(picture, width, height)
            if person is not None:
                kept = with_middle(kept, person, width, height)
        return portraits.distinct(kept)

    def _own(
        self, picture: UInt8 | Picture, known: Sequence[Person2D], width: int, height: int
    ) -> list[Person2D]:
        """Return the people found as their portraits show them."""
        boxes = portraits.boxes(known)
        rows = portraits.worth(known, boxes, self._most, self._crowds)
        found: list[Person2D | None] = list(known)
        for n, person in zip(rows, self._read(picture, boxes[rows], rows, known, width, height)):
            found[n] = person
        left = self._looks - len(rows)
        for turn in range(1, self._turns):
            rows = [n for n in rows if found[n] is not None]
            if not rows:
                break
            told = [person or known[n] for n, person in enumerate(found)]
            before, boxes = boxes, portraits.boxes(told)
            moved = portraits.moved(before[rows], boxes[rows]) & (turn == 1)
            rows = portraits.next_looks(rows, boxes, moved, left)
            left -= len(rows)
            # live, parts that are now larger, now smaller would make joints tremble
            shown_px = portraits.closer(boxes[rows]) if self._looks else boxes[rows]
            # told only what they read themselves, looks would confirm their own faults
            clues = told if turn == 1 else None
            more = self._read(picture, shown_px, rows, known, width, height, clues)
            for n, person in zip(rows, more):
                found[n] = person or found[n]
        return [p for p in portraits.own_readings(known, found) if p is not None]

    def _in_the_middle(self, picture: UInt8 | Picture, width: int, height: int) -> Person2D | None:
        """Return who is in the middle of a picture: looked at without being told, then again."""
        box = middle(width, height)[None]
        (first,) = self._read(picture, box, [0], [], width, height)
        if first is None:
            return None
        box = portraits.boxes([first])
        (second,) = self._read(picture, box, [0], [first], width, height)
        return second or first

    def look(
        self, picture: UInt8 | Picture, people: Sequence[Person2D], width: int, height: int,
        others: Sequence[Person2D] = (),
    ) -> list[Person2D | None]:  # fmt: skip
        """Return how people are whose place in a picture of width x height px is known.

        others: who else is there, and whose joints theirs are not.
        """
        boxes, known = portraits.boxes(people), [*people, *others]
        return self._read(picture, boxes, range(len(people)), known, width, height)

    def _read(
        self, picture: UInt8 | Picture, boxes: Float, whose: Sequence[int],
        known: Sequence[Person2D], width: int, height: int,
        told: Sequence[Person2D] | None = None,
    ) -> list[Person2D | None]:  # fmt: skip
        """Return who is in each box (N, 4), `whose` of the people known, if any, it is.

        told: the same people as they were read last, if not as they are known.
        """
        parts = [portraits.seen_in(box, width, height) for box in boxes]
        rows = [n for n, part in enumerate(parts) if part is not None]
        found: list[Person2D | None] = [None] * len(parts)
        if not rows:
            return found
        inside = [part for part in parts if part is not None]
        clues = portraits.clues(inside, told or known, [whose[n] for n in rows])
        answers = self._answer(portraits.sheets(shown(picture, inside), clues))
        joints, sure = portraits.read(answers["heatmaps"], inside)
        bones = answers.get("bones") if self._bones else None
        for i, n in enumerate(rows):
            before = known[whose[n]] if known else None
            found[n] = portraits.person(
                joints[i], sure[i], None if bones is None else bones[i], before
            )
        return found


def mirrored(answer: Answer) -> Answer:
    """Return the answers of a network for sheets and what they are in the mirror, averaged."""

    def both(sheets: UInt8) -> dict[str, Array]:
        pictures, clues = portraits.unfolded(sheets)
        other = portraits.sheets(pictures[:, :, ::-1], clues[:, _MIRRORED, :, ::-1])
        told = answer(np.concatenate([sheets, other]))
        n = len(sheets)
        maps = told["heatmaps"]
        out = {"heatmaps": (maps[:n] + maps[n:, list(MIRROR_2D), :, ::-1]) / 2}
        if "bones" in told:
            bones = told["bones"].reshape(2, n, -1, 3)
            seen = bones[1][:, list(MIRROR)] * np.array([-1, 1, 1], np.float32)
            out["bones"] = ((bones[0] + seen) / 2).reshape(n, -1)
        return out

    return both


def shown(picture: UInt8 | Picture, parts: Sequence[Part]) -> UInt8:
    """Return the portraits (N, 128, 96, 3) of parts of a picture."""
    out = np.full((len(parts), HEIGHT, WIDTH, 3), BORDER, np.uint8)
    places = [p.place for p in parts]
    some = [np.empty((y1 - y0, x1 - x0, 3), np.uint8) for x0, y0, x1, y1 in places]
    scale_parts(picture, some, [p.part for p in parts])
    for whole, piece, (x0, y0, x1, y1) in zip(out, some, places):
        whole[y0:y1, x0:x1] = piece
    return out


def load_portraits(
    backend: str = "auto", device: str = "auto", threads: int = 0, precision: str = "auto",
    batch: int = 1, bones: bool = True, thorough: bool = False, most: int = EVERYBODY,
    crowds: bool = True, close_ups: bool = False,
) -> Portraits:  # fmt: skip
    """Return the network of portraits, loaded and checked; arguments as `backends.load_network`.

    thorough: everybody is looked at three times, in the mirror as well, in six times the time;
    crowds: False, of few people, live, no more often than it takes to see them; most, crowds,
    close_ups: as `Portraits`.

    Raises:
        WeightsError: its files are missing or damaged.
        DeviceError: engine or device cannot be had.
    """
    rows = weights.find(NAME, ("portrait",))
    wanted = {"bf16": "fp32", "fp16": "fp32"}.get(precision, precision)
    some = [r for r in rows if r.precision == wanted] or rows
    digest = {row.path: weights.verify(row) for row in some}
    if any(row.input_size != (WIDTH, SHEET_HEIGHT) for row in some):
        raise WeightsError(f"{NAME}: not of this version of manypose; reinstall it")
    outputs = () if bones else ("heatmaps",)
    wish = Wish(device, threads, precision, batch, None, outputs, _TOGETHER)
    if wanted not in weights.PRECISIONS:
        wish = replace(wish, precision="auto")
    row, _, session, chosen = choice.placed(some, backend, wish, digest)
    title = f"{row.path.name} {digest[row.path][:12]} ({session.precision}) by {session.engine}"
    log.info("portraits: %s; %s", title, chosen)
    answer = mirrored(session.run) if thorough else session.run
    looks = _TURNS * most if thorough else LARGEST * crowds
    turns = _TURNS if thorough else _TURNS_OF_VIDEOS
    return Portraits(answer, bones, most, title, crowds, looks, turns, close_ups)
