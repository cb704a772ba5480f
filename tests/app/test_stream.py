"""Streams over real sockets on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from manypose.app import stream
from manypose.app.main import main
from manypose.app.recording import Recorder
from manypose.app.stream import (
    VMC_BONES,
    Address,
    Stream,
    open_streams,
    osc_datagrams,
    vmc_datagrams,
)
from manypose.calib.camera import Camera
from manypose.errors import DeviceError, UsageError
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, MISSING, ROOT, SEEN
from manypose.pose.records import Frame, FrameResult, TrackedPerson

pytest.importorskip("pythonosc")


def person(track_id: int, z: float = 3.0, turn: float = 0.0) -> TrackedPerson:
    """Return somebody in a T-pose who faces the camera, turned to the own left by `turn` rad."""
    q = np.tile([0.0, 0, 0, 1], (1, len(JOINTS), 1))
    facing = sk.matrix_to_quaternion(np.diag([1.0, -1, -1]))
    q[0, ROOT] = sk.quaternion_multiply(facing, sk.exp_map(np.array([0.0, turn, 0])))
    offsets = sk.offsets_m(sk.AVERAGE_LENGTHS_M[None])
    points, _ = sk.forward(np.array([[0.2, 0.1, z]]), q, offsets)
    return TrackedPerson(
        track_id, 0.9, np.full((len(JOINTS_2D), 2), 50.0), np.full(len(JOINTS_2D), 0.8),
        points[0, : len(JOINTS)], np.full(len(JOINTS), SEEN, np.uint8), np.array([1.0, 2, 3, 4]),
        q[0],
    )  # fmt: skip


def result(*people: TrackedPerson, t: float = 1.5) -> FrameResult:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), t, 7, Camera.from_fov(64, 48))
    return FrameResult(frame, people)


def decoded(datagram: bytes) -> list[tuple[str, list[object]]]:
    from pythonosc.osc_packet import OscPacket

    return [(m.message.address, list(m.message)) for m in OscPacket(datagram).messages]


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(3)
        yield s


def everybody(people: object) -> list[tuple[int, TrackedPerson]]:
    return list(enumerate(people))  # type: ignore[arg-type]


def test_vmc_bundle_size() -> None:
    for _, datagram in vmc_datagrams(result(person(1), person(2)), everybody):
        assert len(datagram) <= 1500


def test_vmc_has_every_bone_and_the_other_person_on_the_next_port() -> None:
    found = vmc_datagrams(result(person(1), person(2)), everybody)
    assert {offset for offset, _ in found} == {0, 1}
    names = [m[1][0] for o, d in found if o == 0 for m in decoded(d) if "Bone" in m[0]]
    assert names == list(VMC_BONES)


def test_a_t_pose_is_the_avatars_rest_pose_turned_to_the_camera() -> None:
    bones = {
        m[1][0]: m[1][1:]
        for _, d in vmc_datagrams(result(person(1)), everybody)
        for m in decoded(d)
        if "Bone" in m[0]
    }
    # Unity: the person looks along -z, half a turn about y from the avatar's rest
    np.testing.assert_allclose(np.abs(bones["Hips"][3:]), [0, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(bones["Hips"][:3], [0.2, -0.1, 3.0], atol=1e-6)
    np.testing.assert_allclose(bones["LeftUpperArm"][3:], [0, 0, 0, 1], atol=1e-6)
    assert bones["LeftLowerArm"][0] < -0.2  # its own left is Unity's -x


def test_a_turn_to_the_left_turns_the_avatar_to_its_left() -> None:
    hips = next(
        m[1][4:]
        for _, d in vmc_datagrams(result(person(1, turn=0.5)), everybody)
        for m in decoded(d)
        if m[1] and m[1][0] == "Hips"
    )
    x, y, z, w = (float(v) for v in hips)  # type: ignore[arg-type]
    # where the avatar's front (z) points in Unity's world, left-handed rotation by a quaternion
    front = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
    # facing the camera, the own left is the picture's right: +x
    np.testing.assert_allclose(front, [np.sin(0.5), 0, -np.cos(0.5)], atol=1e-6)


def test_osc_leaves_missing_joints_out(receiver: socket.socket) -> None:
    p = person(4)
    p.joints_m[INDEX["l_hand"]] = np.nan
    p.state[INDEX["l_hand"]] = MISSING
    messages = [m for d in osc_datagrams(result(p)) for m in decoded(d)]
    assert messages[0] == ("/manypose/frame", [1.5, 1])
    joints = [m[1] for m in messages if m[0] == "/manypose/joint"]
    assert len(joints) == 20
    assert joints[0][:2] == [4, "head_top"]
    assert joints[0][-1] == "seen"


def test_udp_arrives(receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    streams = open_streams(udp=str(port))
    streams[0].put(result(person(5)))
    doc = json.loads(receiver.recv(70000))
    streams[0].close()
    assert doc["persons"][0]["id"] == 5
    assert doc["schema"] == "manypose/1"


def test_vmc_arrives_for_the_nearest(receiver: socket.socket) -> None:
    streams = open_streams(vmc=f"127.0.0.1:{receiver.getsockname()[1]}", person="nearest")
    streams[0].put(result(person(1, z=4.0), person(2, z=2.0)))
    messages = decoded(receiver.recv(2000))
    streams[0].close()
    hips = next(m[1] for m in messages if m[1] and m[1][0] == "Hips")
    assert hips[3] == pytest.approx(2.0)  # type: ignore[comparison-overlap]


def test_a_stalled_receiver_loses_old_results_and_holds_nobody_up() -> None:
    seen: list[float] = []

    def slow(r: FrameResult) -> None:
        time.sleep(0.1)
        seen.append(r.frame.time_s)

    stream = Stream("slow", slow, lambda: None)
    began = time.monotonic()
    for i in range(50):
        stream.put(result(t=float(i)))
        time.sleep(0.005)
    assert time.monotonic() - began < 1.5
    stream.close()
    assert seen[-1] == 49.0
    assert stream.dropped + len(seen) == 50


def test_a_websocket_client_gets_the_newest() -> None:
    client = pytest.importorskip("websockets.sync.client")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (stream,) = open_streams(websocket=str(port))
    try:
        with client.connect(f"ws://127.0.0.1:{port}") as connection:
            time.sleep(0.2)
            stream.put(result(person(6)))
            assert json.loads(connection.recv(3))["persons"][0]["id"] == 6
        with pytest.raises(DeviceError, match=str(port)):
            open_streams(websocket=str(port))
    finally:
        stream.close()


def test_everybody_keeps_a_port_and_another_one_takes_it_over_later() -> None:
    seen: list[list[tuple[int, int]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_PORT_KEPT", 3)
        chosen = stream._everybody()
        for ids in [(4, 7), (7,), (7, 9), (7, 9), (4, 7), (7,), (7,), (7,), (7,), (7, 11)]:
            seen.append([(k, p.track_id) for k, p in chosen([person(i) for i in ids])])
    assert seen[0] == [(0, 4), (1, 7)]
    assert seen[2] == [(1, 7), (2, 9)]  # 4 may come back
    assert seen[4] == [(0, 4), (1, 7)]
    assert seen[-1] == [(1, 7), (0, 11)]


def test_the_nearest_is_kept_until_another_is_clearly_nearer() -> None:
    chosen = stream._nearest()
    depths = [(3.0, 3.1), (3.0, 2.9), (3.0, 2.6), (2.5, 2.6)]
    sent = [chosen([person(1, z=a), person(2, z=b)])[0][1].track_id for a, b in depths]
    assert sent == [1, 1, 2, 2]
    assert chosen([person(1)])[0][1].track_id == 1
    assert chosen([]) == []


def test_a_recorded_session_is_sent_again(
    receiver: socket.socket, quiet_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quiet_home / "session"
    recorder = Recorder(folder, {})
    for k in range(20):
        recorder.write(result(person(3, z=3 + 0.1 * k, turn=0.5), t=5 + k / 20))
    recorder.close()
    to = f"127.0.0.1:{receiver.getsockname()[1]}"
    assert main(["play", str(folder), "--no-gui", "--vmc", to, "--speed", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["frame"] == 0
    assert lines[-1]["persons"][0]["root"][2] == pytest.approx(4.9, abs=1e-4)
    assert len(lines) > 3  # a frame whose time has gone by is left out: many on a busy machine
    receiver.setblocking(False)
    hips: list[list[object]] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            hips += [m[1] for m in decoded(receiver.recv(2000)) if m[1] and m[1][0] == "Hips"]
    # a session stores no rotations: they are those of its joints
    np.testing.assert_allclose(hips[-1][1:4], [0.2, -0.1, 4.9], atol=1e-4)
    x, _, z, _ = np.abs(np.array(hips[-1][4:], float))
    np.testing.assert_allclose([x, z], 0, atol=0.02)
    assert main(["play", str(folder), "--no-gui", "--format", "none"]) == 2


@pytest.mark.parametrize("text", ["", "host", "1.2.3.4:x", "1.2.3.4:99999", "-1"])
def test_bad_addresses_say_what_is_wanted(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        Address.parse(text)


def test_without_a_host_a_stream_stays_on_this_machine() -> None:
    assert Address.parse("39539") == Address("127.0.0.1", 39539)
    with pytest.raises(UsageError, match="nearest"):
        open_streams(vmc="39539", person="the tall one")
