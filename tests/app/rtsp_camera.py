"""A network camera to test against: RTSP, H.264 through one TCP connection, 25 pictures a second.

Sources: RFC 2326 (RTSP), RFC 6184 section 5 (H.264 in RTP: single units and FU-A fragments).
As a program: ``python tests/app/rtsp_camera.py PORT`` serves until it is killed.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import av
from made_clips import picture

FPS = 25
SIZE = (480, 288)
_MTU = 1400


def _encoder() -> av.VideoCodecContext:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height = SIZE
    context.pix_fmt = "yuv420p"
    context.framerate, context.time_base = Fraction(FPS), Fraction(1, FPS)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS)}
    return context


def units(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units of a packet in Annex B form."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    yield from (part for part in parts if part)


def payloads(unit: bytes) -> Iterator[bytes]:
    """Yield the RTP payloads of one NAL unit: itself, or FU-A fragments."""
    if len(unit) <= _MTU:
        yield unit
        return
    head, body = unit[0], unit[1:]
    for start in range(0, len(body), _MTU):
        part = body[start : start + _MTU]
        first, last = start == 0, start + _MTU >= len(body)
        flags = (first << 7) | (last << 6) | (head & 0x1F)
        yield bytes([(head & 0xE0) | 28, flags]) + part


class RtspCamera:
    """Serves one client after the other, each from its own first picture on."""

    def __init__(self, port: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self._peers: list[socket.socket] = []
        self._ending = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        """Where the pictures are."""
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def close(self) -> None:
        """Pull the plug."""
        self._ending.set()
        for one in (self._server, *self._peers):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                self._peers.append(peer)
                threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), peer, peer.makefile("rb") as lines:
            while True:
                request: list[bytes] = []
                while line := lines.readline().strip():
                    request.append(line)
                if not request:
                    return
                method = request[0].split()[0].decode()
                number = next(x for x in request if x.lower().startswith(b"cseq"))
                head, body = self._answer(method)
                text = f"RTSP/1.0 200 OK\r\n{number.decode()}\r\n{head}"
                if body:
                    text += f"Content-Length: {len(body)}\r\n"
                peer.sendall(f"{text}\r\n{body}".encode())
                if method == "PLAY":
                    self._play(peer)
                    return

    def _answer(self, method: str) -> tuple[str, str]:
        if method == "OPTIONS":
            return "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n", ""
        if method == "DESCRIBE":
            first = bytes(_encoder().extradata or b"")
            sets = ",".join(base64.b64encode(u).decode() for u in units(first))
            sprop = f";sprop-parameter-sets={sets}" if sets else ""
            described = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n"
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                f"a=fmtp:96 packetization-mode=1{sprop}\r\n"
                "a=control:track1\r\n"
            )
            return "Content-Type: application/sdp\r\n", described
        if method == "SETUP":
            return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""
        return "Session: 1\r\n", ""

    def _play(self, peer: socket.socket) -> None:
        encoder, sequence, start = _encoder(), 0, time.monotonic()
        index = 0
        while not self._ending.wait(max(0.0, start + index / FPS - time.monotonic())):
            frame = av.VideoFrame.from_ndarray(picture(index, *SIZE), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            for packet in encoder.encode(frame):
                parts = [p for unit in units(bytes(packet)) for p in payloads(unit)]
                for k, payload in enumerate(parts):
                    marker = 0x80 if k == len(parts) - 1 else 0
                    stamp = index * 90_000 // FPS
                    rtp = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 7)
                    sequence += 1
                    peer.sendall(struct.pack(">cBH", b"$", 0, len(rtp + payload)) + rtp + payload)
            index += 1


if __name__ == "__main__":
    RtspCamera(int(sys.argv[1]))
    threading.Event().wait()
