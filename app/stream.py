"""Results to other programs while they happen: VMC, OSC, JSON over UDP or WebSocket.

Every receiver has a thread and a slot of its own where the newest result wins: a receiver that
stalls loses results and never holds up the estimation.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.jsonl import frame_object
from manypose.app.handover import Closed, Latest
from manypose.errors import DeviceError, UsageError
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, JOINTS, ROOT, STATE_NAMES
from manypose.pose.records import FrameResult, TrackedPerson

log = logging.getLogger(__name__)

DATAGRAM_BYTES = 1400  # safely below the 1500 of an Ethernet frame
_UDP_BYTES_MAX = 65000
_PORT_KEPT = 60  # results: whoever is hidden for about two seconds comes back on the same port
_NEARER_M = 0.3  # two people side by side must not change places all the time
Float = NDArray[np.floating[Any]]

# Unity's HumanBodyBones -> joint whose rotation moves that bone.
VMC_BONES: dict[str, str] = {
    "Hips": "pelvis", "Spine": "spine", "Head": "neck", "LeftUpperArm": "l_shoulder",
    "LeftLowerArm": "l_elbow", "LeftHand": "l_wrist", "RightUpperArm": "r_shoulder",
    "RightLowerArm": "r_elbow", "RightHand": "r_wrist", "LeftUpperLeg": "l_hip",
    "LeftLowerLeg": "l_knee", "LeftFoot": "l_ankle", "RightUpperLeg": "r_hip",
    "RightLowerLeg": "r_knee", "RightFoot": "r_ankle",
}  # fmt: skip
# Camera axes to y-up right-handed, as a quaternion x y z w: half a turn about x.
_Y_UP = np.array([1.0, 0, 0, 0])
_ABOUT_Y = np.array([0.0, 1, 0, 0])


@dataclass(frozen=True, slots=True)
class Address:
    """Where a stream goes; without a host it stays on this machine."""

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """Return the address in "HOST:PORT" or "PORT".

        Raises:
            UsageError: the port is not a number from 1 to 65535.
        """
        host, _, port = text.rpartition(":")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"{text!r}: give HOST:PORT, as in 127.0.0.1:39539")
        return Address(host or "127.0.0.1", int(port))


class Stream:
    """One receiver: a slot and the thread that empties it into `send`."""

    def __init__(self, name: str, send: Callable[[FrameResult], None], end: Callable[[], None]):
        self.name = name
        self.sent = 0
        self._send, self._end = send, end
        self._start_s: float | None = None
        self._slot: Latest[FrameResult] = Latest()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many results the receiver was too slow for."""
        return self._slot.dropped["stale"]

    def put(self, result: FrameResult) -> None:
        """Hand a result over, its time counted from the first one; never waits."""
        frame = result.frame
        if self._start_s is None:
            self._start_s = frame.time_s
        if not self._slot.closed:
            told = replace(frame, time_s=frame.time_s - self._start_s)
            self._slot.put(replace(result, frame=told))

    def _work(self) -> None:
        failed = False
        for result in self._slot:
            try:
                self._send(result)
                self.sent += 1
                failed = False
            except OSError as error:
                # a receiver that is not there (yet) is no reason to stop
                if not failed:
                    log.warning("%s: %s", self.name, error)
                failed = True

    def close(self) -> None:
        """Send what is left, then end."""
        self._slot.end()
        self._thread.join(2.0)
        self._slot.close()
        self._end()
        log.info("%s: %d results sent, %d too fast for it", self.name, self.sent, self.dropped)


@contextlib.contextmanager
def streaming(args: argparse.Namespace) -> Iterator[list[Stream]]:
    """Yield the streams that the command line asks for (`options.add_streams`); none: []."""
    streams: list[Stream] = []
    if args.vmc or args.osc or args.udp or args.websocket:
        streams = open_streams(args.vmc, args.osc, args.udp, args.websocket, args.person)
    try:
        yield streams
    finally:
        for stream in streams:
            stream.close()


def open_streams(
    vmc: str | None = None,
    osc: str | None = None,
    udp: str | None = None,
    websocket: str | None = None,
    person: str = "all",
) -> list[Stream]:
    """Return the streams asked for; each argument is "HOST:PORT" or "PORT".

    `person` is for VMC, where a receiver takes one avatar: "all" gives every person a port of their
    own, from this one upwards, "nearest" sends the nearest one, a number the person with that id.

    Raises:
        UsageError: an address or a person makes no sense.
        DeviceError: a package is missing or the port is taken.
    """
    chosen = _chooser(person)
    makers: list[tuple[str | None, Callable[[Address], Stream]]] = [
        (vmc, lambda to: _udp("VMC", to, lambda r: vmc_datagrams(r, chosen))),
        (osc, lambda to: _udp("OSC", to, lambda r: [(0, d) for d in osc_datagrams(r)])),
        (udp, lambda to: _udp("UDP", to, lambda r: [(0, d) for d in json_datagrams(r)])),
        (websocket, _websocket),
    ]
    with contextlib.ExitStack() as opened:  # when one cannot be had, none stays open
        streams = []
        for address, make in [(Address.parse(text), make) for text, make in makers if text]:
            streams.append(make(address))
            opened.callback(streams[-1].close)
        opened.pop_all()
    return streams


def _udp(
    kind: str, to: Address, build: Callable[[FrameResult], Sequence[tuple[int, bytes]]]
) -> Stream:
    if kind != "UDP":
        _osc_package()
    family = socket.AF_INET6 if ":" in to.host else socket.AF_INET
    out = socket.socket(family, socket.SOCK_DGRAM)
    out.setblocking(False)

    def send(result: FrameResult) -> None:
        for offset, datagram in build(result):
            out.sendto(datagram, (to.host, to.port + offset))

    return Stream(f"{kind} {to.host}:{to.port}", send, out.close)


def _osc_package() -> Any:
    try:
        import pythonosc
    except ImportError as e:
        raise DeviceError("VMC and OSC need python-osc: pip install 'manypose[stream]'") from e
    return pythonosc


Chooser = Callable[[Sequence[TrackedPerson]], "list[tuple[int, TrackedPerson]]"]


def _chooser(person: str) -> Chooser:
    if person == "all":
        return _everybody()
    if person == "nearest":
        return _nearest()
    if not person.isdigit():
        raise UsageError(f"--person {person!r}: all, nearest or the number of a person")
    return lambda people: [(0, p) for p in people if p.track_id == int(person)]


def _everybody() -> Chooser:
    """Return what gives everybody the lowest free port, theirs until they have long been gone."""
    ports: dict[int, int] = {}
    unseen: dict[int, int] = {}

    def everybody(people: Sequence[TrackedPerson]) -> list[tuple[int, TrackedPerson]]:
        here = {p.track_id for p in people}
        for one in list(ports):
            unseen[one] = 0 if one in here else unseen[one] + 1
            if unseen[one] > _PORT_KEPT:
                del ports[one], unseen[one]
        for one in sorted(here - ports.keys()):
            ports[one] = next(k for k in itertools.count() if k not in ports.values())
            unseen[one] = 0
        return [(ports[p.track_id], p) for p in people]

    return everybody


def _nearest() -> Chooser:
    """Return what keeps to one person until another is clearly nearer to the camera."""
    kept = -1

    def nearest(people: Sequence[TrackedPerson]) -> list[tuple[int, TrackedPerson]]:
        nonlocal kept
        depths = {p.track_id: float(p.joints_m[ROOT, 2]) for p in people}
        known = {one: z for one, z in depths.items() if np.isfinite(z)}
        if not known:
            return []
        first = min(known, key=lambda one: known[one])
        if known.get(kept, np.inf) > known[first] + _NEARER_M:
            kept = first
        return [(0, p) for p in people if p.track_id == kept]

    return nearest


def vmc_datagrams(result: FrameResult, chosen: Chooser) -> list[tuple[int, bytes]]:
    """Return (port offset, datagram) of the VMC messages of one frame, protocol 2.1.

    Axes are Unity's (left-handed, y up, metres): world positions (x, y, -z) of the y-up world, the
    rotations of bones in the avatar's own frame, which looks along z with x to its right.
    """
    out = []
    for offset, person in chosen(result.people):
        if person.rotations is None or not np.isfinite(person.rotations).all():
            continue
        messages: list[tuple[str, list[Any]]] = [
            ("/VMC/Ext/OK", [1]),
            ("/VMC/Ext/T", [float(result.frame.time_s)]),
            ("/VMC/Ext/Root/Pos", ["root", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        ]
        for bone, joint in VMC_BONES.items():
            place, turn = _unity_bone(person, INDEX[joint])
            messages.append(("/VMC/Ext/Bone/Pos", [bone, *map(float, place), *map(float, turn)]))
        out += [(offset, datagram) for datagram in _bundles(messages)]
    return out


def _unity_bone(person: TrackedPerson, joint: int) -> tuple[Float, Float]:
    """Return the local position and rotation (x y z w) of a bone in Unity's axes."""
    assert person.rotations is not None
    q = person.rotations[joint].astype(float)
    if joint == ROOT:
        world = sk.quaternion_multiply(_Y_UP, q)
        x, y, z = person.joints_m[ROOT] * [1, -1, -1]
        turned = sk.quaternion_multiply(world * [-1, -1, 1, 1], _ABOUT_Y)
        return np.array([x, y, -z]), turned
    parent = sk.KINEMATIC_PARENT[joint]
    length = person.joints_m[joint] - person.joints_m[parent]
    scale = float(np.linalg.norm(length)) if np.isfinite(length).all() else 0.0
    rest = sk.REST_M[joint] - sk.REST_M[parent]
    offset = rest / max(float(np.linalg.norm(rest)), 1e-9) * scale
    return offset * [-1, 1, 1], q * [1, -1, -1, 1]


def osc_datagrams(result: FrameResult) -> list[bytes]:
    """Return the plain OSC messages of one frame.

    /manypose/frame t n, /manypose/person id score, /manypose/joint id name x y z state, in
    metres of the camera frame; missing joints are left out.
    """
    messages: list[tuple[str, list[Any]]] = [
        ("/manypose/frame", [float(result.frame.time_s), len(result.people)])
    ]
    for p in result.people:
        messages.append(("/manypose/person", [int(p.track_id), float(p.score)]))
        for j, name in enumerate(JOINTS):
            if np.isfinite(p.joints_m[j]).all():
                place = [float(v) for v in p.joints_m[j]]
                state = STATE_NAMES[int(p.state[j])]
                messages.append(("/manypose/joint", [int(p.track_id), name, *place, state]))
    return _bundles(messages)


def _bundles(messages: Sequence[tuple[str, list[Any]]]) -> list[bytes]:
    """Return OSC bundles that each fit one datagram."""
    from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
    from pythonosc.osc_message_builder import OscMessageBuilder

    built = []
    for address, values in messages:
        builder = OscMessageBuilder(address)
        for v in values:
            builder.add_arg(v)
        built.append(builder.build())
    bundles, size = [], DATAGRAM_BYTES
    for message in built:
        size += message.size + 4
        if size > DATAGRAM_BYTES:
            bundles.append(OscBundleBuilder(IMMEDIATELY))
            size = 16 + message.size + 4
        bundles[-1].add_content(message)
    return [b.build().dgram for b in bundles]


def json_datagrams(result: FrameResult) -> list[bytes]:
    """Return the frame as one JSON datagram, or one for each person where it would be too long."""
    whole = frame_object(result)
    text = json.dumps(whole, allow_nan=False, separators=(",", ":")).encode()
    if len(text) <= _UDP_BYTES_MAX:
        return [text]
    return [
        json.dumps({**whole, "persons": [p]}, allow_nan=False, separators=(",", ":")).encode()
        for p in whole["persons"]
    ]


def _websocket(at: Address) -> Stream:
    """Serve every result as one text message to all who connect."""
    try:
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.server import ServerConnection, serve
    except ImportError as e:
        raise DeviceError("WebSocket needs websockets: pip install 'manypose[stream]'") from e
    clients: dict[ServerConnection, Latest[str]] = {}
    lock = threading.Lock()

    def talk(connection: ServerConnection) -> None:
        slot: Latest[str] = Latest()
        with lock:
            clients[connection] = slot
        try:
            for text in slot:
                connection.send(text)
        except ConnectionClosed:
            pass
        finally:
            with lock:
                clients.pop(connection, None)
            slot.close()

    try:
        server = serve(talk, at.host, at.port, compression=None, close_timeout=1)
    except OSError as e:
        raise DeviceError(f"WebSocket {at.host}:{at.port}: {e.strerror or e}") from e
    thread = threading.Thread(target=server.serve_forever, name="websocket", daemon=True)
    thread.start()

    def send(result: FrameResult) -> None:
        with lock:
            slots = list(clients.values())
        if slots:
            text = json.dumps(frame_object(result), allow_nan=False, separators=(",", ":"))
            for slot in slots:
                try:
                    slot.put(text)
                except Closed:
                    continue  # it left between the two lines

    def end() -> None:
        with lock:
            for slot in clients.values():
                slot.end()
        time.sleep(0.05)  # lets the last message out
        server.shutdown()
        thread.join(2.0)

    return Stream(f"WebSocket {at.host}:{at.port}", send, end)
