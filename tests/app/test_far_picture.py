import mmap
import socket
import threading
from multiprocessing.connection import Connection

import numpy as np
import pytest

from manypose.app import far_picture
from manypose.models.preprocess import scale_parts


def test_parts_come_over_in_as_few_journeys_as_have_room():
    mine, theirs = (Connection(s.detach()) for s in socket.socketpair())
    memory = mmap.mmap(-1, 2 * 3 * 100 * 100)
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    far_picture.whole(memory, 20, 15)[:] = image[:15, :20]
    picture = far_picture.FarPicture(image.shape, (20, 15), theirs, memory)
    journeys = []

    def serve() -> None:
        while True:
            try:
                wanted = mine.recv()
            except EOFError:
                return
            journeys.append(len(wanted.parts))
            scale_parts(image, far_picture.parts(memory, wanted.sizes), wanted.parts)
            mine.send(None)

    thread = threading.Thread(target=serve)
    thread.start()
    places = [(0, 0, 200, 100), (10, 20, 90, 220), (100, 100, 400, 300), (2, 4, 6, 8)]
    sizes = [(60, 100), (40, 100), (100, 100), (30, 30)]  # the third fills the room alone
    outs, wanted = ([np.empty((h, w, 3), np.uint8) for w, h in sizes] for _ in range(2))
    scale_parts(picture, outs, places)
    scale_parts(image, wanted, places)
    theirs.close()
    thread.join()
    mine.close()
    for a, b in zip(outs, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert journeys == [2, 1, 1]
    small = np.empty((15, 20, 3), np.uint8)
    picture.resized(small)
    np.testing.assert_array_equal(small, image[:15, :20])
    for ask in (picture.whole, lambda: picture.pixels(np.array(0), np.array(0))):
        with pytest.raises(ValueError, match="another process"):
            ask()
