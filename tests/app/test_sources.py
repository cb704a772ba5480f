from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_clips import cut, picture, spoil, turn_tag, write_clip

from manypose.app import containers
from manypose.app.config import load_config
from manypose.app.pictures import natural_key, pictures_in
from manypose.app.sources import Source, open_source, paced
from manypose.app.webcam import CameraDevice, find_camera, list_cameras
from manypose.errors import CalibrationError, DeviceError, SourceError
from manypose.pose.records import Frame

NONE = Path("/nonexistent.toml")


def opened(path: Path | str, **options: str) -> Source:
    pairs = [(key.replace("__", "."), value) for key, value in options.items()]
    return open_source(str(path), load_config(pairs, environ={}, user=NONE, project=NONE))


def read(path: Path | str, **options: str) -> tuple[list[Frame], Source]:
    with opened(path, **options) as source:
        return list(source), source


def test_a_video_is_read_whole_with_its_times(tmp_path: Path) -> None:
    frames, source = read(write_clip(tmp_path / "a.mp4"))
    assert [f.index for f in frames] == list(range(30))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(30) / 30, atol=1e-4)
    assert frames[0].image.shape == (96, 160, 3)
    assert (source.info.width, source.info.height, source.info.frames) == (160, 96, 30)
    assert not source.partial
    assert source.warnings == []
    assert source.counts.read == 30


def test_a_decoder_that_is_not_here_is_refused_and_auto_does_without(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    frames, source = read(clip, source__hwaccel="auto")
    plain, _ = read(clip)
    np.testing.assert_array_equal(frames[-1].image, plain[-1].image)
    assert source.info.codec.split()[0] == "h264"
    missing = next(d for d in ("cuda", "vulkan", "vaapi", "qsv") if d not in containers.working())
    with pytest.raises(DeviceError, match=f"{missing}.*decode on the processor"):
        opened(clip, source__hwaccel=missing)


def test_vfr_times(tmp_path: Path) -> None:
    stamps = [0, 33, 66, 500, 533, 1700, 1733, 1766, 3000, 3033]
    clip = write_clip(tmp_path / "vfr.mp4", 10, stamps_ms=stamps)
    frames, source = read(clip)
    np.testing.assert_allclose([f.time_s for f in frames], np.array(stamps) / 1000, atol=1e-4)
    assert not source.partial


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_start_offset(tmp_path: Path, name: str) -> None:
    frames, source = read(write_clip(tmp_path / name, 10, offset_s=1.5))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(10) / 30, atol=2e-3)
    assert not source.partial


def test_unknown_count(tmp_path: Path) -> None:
    frames, source = read(write_clip(tmp_path / "a.mkv", 12))
    assert len(frames) == 12
    assert source.info.frames is None


def test_raw_h264(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.h264", 12, container="h264")
    frames, source = read(clip)
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / 25)
    assert "source.fps" in source.warnings[0]
    frames, _ = read(clip, source__fps="30")
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / 30)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_90_180_270(tmp_path: Path, degrees: int) -> None:
    clip = turn_tag(write_clip(tmp_path / "turned.mp4", 3), degrees)
    frames, source = read(clip)
    stored = picture(0)
    upright = np.rot90(stored, -degrees // 90)
    assert frames[0].image.shape == upright.shape
    assert source.info.rotation_deg == degrees
    assert (frames[0].camera.width, frames[0].camera.height) == upright.shape[1::-1]
    bright = frames[0].image.mean(2) > 180
    assert (bright == (upright.mean(2) > 180)).mean() > 0.97
    # OpenCV turns by itself: both readers agree
    ok, other = cv2.VideoCapture(str(clip)).read()
    assert ok
    assert np.abs(other.astype(int) - frames[0].image).mean() < 4


def test_rotate_overrides_the_tag(tmp_path: Path) -> None:
    clip = turn_tag(write_clip(tmp_path / "turned.mp4", 3), 90)
    frames, source = read(clip, source__rotate="0")
    assert frames[0].image.shape == (96, 160, 3)
    assert source.info.rotation_deg == 0


def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    for name, options in (("a.mp4", {"faststart": True}), ("a.mkv", {})):
        frames, source = read(cut(write_clip(tmp_path / name, 90, **options), 0.66))
        assert 40 < len(frames) < 70
        assert source.partial
        assert any("truncated" in w for w in source.warnings)
        assert source.counts.read == len(frames) + source.counts.undecodable


def test_corrupt_middle(tmp_path: Path) -> None:
    frames, source = read(spoil(write_clip(tmp_path / "a.mp4", 60, faststart=True)))
    assert len(frames) >= 58
    assert not source.partial
    assert source.counts.read == len(frames) + source.counts.undecodable


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"just some text\n" * 50, "not a video"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "not a video"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a video|no pictures"),
        ("empty.png", b"", "cannot be read as a picture"),
        ("text.jpg", b"hello", "cannot be read as a picture"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_video_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="damaged or not a video"):
        read(cut(write_clip(tmp_path / "a.mp4", 60), 0.5))


def test_colon_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("take:1.mp4", "a%d #1?.mp4"):
        write_clip(Path(name), 3)
        assert len(read(name)[0]) == 3


def test_unicode_name(tmp_path: Path) -> None:
    for name in ("größe.mp4", "映像.mp4"):
        assert len(read(write_clip(tmp_path / name, 3))[0]) == 3
    cv2.imencode(".png", picture(0))[1].tofile(tmp_path / "写真.png")
    assert len(read(tmp_path / "写真.png")[0]) == 1


@pytest.mark.parametrize("address", ["nope.mp4", "nope", "nope.png", "camera:77", "camera:nope"])
def test_what_is_not_there_is_said(address: str) -> None:
    with pytest.raises(SourceError):
        read(address)


def test_pictures_come_in_natural_order_and_upright(tmp_path: Path) -> None:
    for number in (10, 9, 1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    frames, source = read(tmp_path)
    assert source.info.files == ("1.png", "2.png", "9.png", "10.png")
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 9, 10]
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(4) / 25)
    names = ["b10", "B2", "walk2", "a", "walk"]
    assert sorted(names, key=natural_key) == ["a", "B2", "b10", "walk", "walk2"]


def test_exif_orientation(tmp_path: Path) -> None:
    from struct import pack

    ok, data = cv2.imencode(".jpg", picture(0))
    assert ok
    tiff = b"II*\0" + pack("<I", 8) + pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + pack("<I", 0)
    exif = b"Exif\0\0" + tiff
    tagged = b"\xff\xd8\xff\xe1" + pack(">H", len(exif) + 2) + exif + data.tobytes()[2:]
    (tmp_path / "phone.jpg").write_bytes(tagged)
    assert read(tmp_path / "phone.jpg")[0][0].image.shape == (160, 96, 3)


def test_a_bad_picture_leaves_a_gap(tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    (tmp_path / "1.png").write_bytes(b"\x89PNG but no more")
    frames, source = read(tmp_path)
    assert [f.index for f in frames] == [0, 2]
    assert source.partial
    assert source.counts.read == len(frames) + source.counts.undecodable
    assert len(pictures_in(tmp_path)) == 3


def test_camera_of_a_source(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", 2)
    frames, _ = read(clip)
    assert frames[0].camera.source == "fov-guess"
    frames, _ = read(clip, camera__fov_deg="90")
    assert frames[0].camera.source == "fov"
    assert frames[0].camera.K[0, 0] == pytest.approx(80)


def test_a_camera_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    files = pytest.importorskip("manypose.calib.files")
    from manypose.calib.camera import Camera

    files.write_cameras(tmp_path / "big.toml", {"cam": Camera.from_fov(1600, 960, 70)})
    files.write_cameras(tmp_path / "wide.toml", {"cam": Camera.from_fov(1920, 1080, 70)})
    clip = write_clip(tmp_path / "a.mp4", 2)
    frames, _ = read(clip, camera__file=str(tmp_path / "big.toml"))
    assert (frames[0].camera.width, frames[0].camera.height) == (160, 96)
    turned, _ = read(turn_tag(clip, 90), camera__file=str(tmp_path / "big.toml"))
    assert turned[0].camera.width == 96
    assert turned[0].camera.K[1, 1] == pytest.approx(frames[0].camera.K[0, 0])
    with pytest.raises(CalibrationError, match="1920x1080"):
        read(clip, camera__file=str(tmp_path / "wide.toml"))


def test_a_paced_file_drops_what_a_slow_consumer_misses(tmp_path: Path) -> None:
    with paced(opened(write_clip(tmp_path / "a.mp4", 30))) as source:
        got = []
        for frame in source:
            got.append(frame)
            time.sleep(0.1)
    assert len(got) < 20
    assert source.counts.dropped["stale"] > 5
    assert source.counts.read == len(got) + sum(source.counts.dropped.values()) == 30
    assert np.all(np.diff([f.time_s for f in got]) > 0)
    span = got[-1].time_s - got[0].time_s
    assert span == pytest.approx((got[-1].index - got[0].index) / 30, abs=1e-3)


def test_closing_ends_the_iteration_within_a_second(tmp_path: Path) -> None:
    source = paced(opened(write_clip(tmp_path / "a.mp4", 90)))
    threading.Timer(0.2, source.close).start()
    start = time.monotonic()
    assert len(list(source)) < 30
    assert time.monotonic() - start < 1.5
    recorded = opened(write_clip(tmp_path / "b.mp4", 90))
    count = 0
    for _ in recorded:
        count += 1
        recorded.close()
    assert count == 1


def test_rtsp_silent_timeout() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        start = time.monotonic()
        with pytest.raises(SourceError, match="no answer within 1 s"):
            read(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live", source__open_timeout_s="1.0")
        assert time.monotonic() - start < 5


def test_a_stream_that_dies_is_opened_again(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.ts", 60).read_bytes()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            for _ in range(2):
                peer, _ = server.accept()
                with peer:
                    peer.sendall(clip)

        threading.Thread(target=serve, daemon=True).start()
        got: list[Frame] = []
        with opened(f"tcp://127.0.0.1:{server.getsockname()[1]}") as source:
            assert source.live
            threading.Timer(10, source.close).start()
            lost = False
            for frame in source:
                lost |= bool(got) and frame.time_s - got[-1].time_s > 0.45  # the pause before retry
                got.append(frame)
                if lost and frame.index > got[0].index:
                    source.close()
        assert lost
        assert source.counts.read >= len(got) + sum(source.counts.dropped.values())


def test_a_password_is_not_shown() -> None:
    with pytest.raises(SourceError) as caught:
        read("rtsp://me:secret@127.0.0.1:9/x", source__open_timeout_s="1.0")
    assert "secret" not in str(caught.value)


def test_cameras_are_listed_by_the_systems_names(tmp_path: Path) -> None:
    for number, name, index in ((0, "Desk Cam", 0), (1, "Desk Cam", 1), (2, "Lab Cam", 0)):
        node = tmp_path / f"video{number}"
        node.mkdir()
        (node / "name").write_text(f"{name}\n")
        (node / "index").write_text(f"{index}\n")
    cameras = list_cameras(tmp_path)
    assert cameras is not None
    assert [(c.index, c.name) for c in cameras] == [(0, "Desk Cam"), (2, "Lab Cam")]
    assert find_camera("lab", cameras).index == 2
    assert find_camera("0", cameras) == CameraDevice(0, "Desk Cam", "/dev/video0")
    for wanted, says in (("cam", "more than one"), ("phone", "no camera"), ("91", "0 = Desk Cam")):
        with pytest.raises(SourceError, match=says):
            find_camera(wanted, cameras)


def test_real_phone_clip_is_upright(shared: Path) -> None:
    with opened(shared / "data/clips/phone_portrait_rotation_tag.mp4") as source:
        frame = next(iter(source))
    assert frame.image.shape == (720, 404, 3)
    assert (frame.camera.width, frame.camera.height) == (404, 720)
