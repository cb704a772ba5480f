"""Recorded sources in pieces that any machine can read, every frame with its own index and time.

A video is cut at key frames, where decoding can begin; folders of pictures anywhere. A file whose
packets do not tell exactly which frame is where stays in one piece.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from manypose.app.config import Config
from manypose.app.containers import open_container
from manypose.app.pictures import Pictures, pictures_in
from manypose.app.sources import Source, open_source
from manypose.app.video import VideoFile
from manypose.errors import UsageError
from manypose.pose.records import Frame

Start = tuple[int, int | None]  # frame index, presentation stamp
FRAMES = 500  # of a shard: some seconds of work, so that a lost worker costs little


@dataclass(frozen=True, slots=True)
class Shard:
    """Frames first, first + 1, ... of a recorded source.

    input: number of the input it belongs to. count: None for all up to the end. stamp: the
    presentation stamp of the key frame `first`, None where the file is read from its start.
    """

    input: int
    address: str
    first: int = 0
    count: int | None = None
    stamp: int | None = None


def cut(number: int, source: Source, frames: int = FRAMES) -> list[Shard]:
    """Return the shards of an opened source, which is of no use afterwards.

    Each has at least `frames` frames, but the last one.

    Raises:
        UsageError: it is a camera or a stream, which nobody else can read again.
    """
    address = source.info.address
    if source.live or "://" in address:
        raise UsageError(f"{address}: --batch takes files; run it without --batch")
    whole = str(Path(address).resolve())
    if isinstance(source, Pictures):
        starts: list[Start] = [(first, None) for first in range(0, len(source.info.files), frames)]
    else:
        starts = _starts(Path(whole), frames)
        if len(starts) > 1 and isinstance(source, VideoFile):
            # where one entry fails, all would, and every shard be decoded from the start
            second = Shard(number, whole, starts[1][0], None, starts[1][1])
            starts = starts if _entered(source, second) else starts[:1]
    ends = [first for first, _ in starts[1:]]
    counts = [end - first for (first, _), end in zip(starts, ends)]
    return [
        Shard(number, whole, first, count, stamp)
        for (first, stamp), count in itertools.zip_longest(starts, counts)
    ]  # fmt: skip


def _starts(path: Path, frames: int) -> list[Start]:
    """Return (index, stamp) of the key frames at which a video is cut; its first frame is one."""
    starts: list[Start] = [(0, None)]
    for index, stamp in key_frames(path):
        if index - starts[-1][0] >= frames:
            starts.append((index, stamp))
    return starts


def key_frames(path: Path) -> list[tuple[int, int]]:
    """Return (index, presentation stamp) of the key frames of a video, without decoding it.

    Empty when the packets do not tell: some without a stamp, two with one stamp, damage.

    Raises:
        SourceError: the file cannot be read at all.
    """
    stamps: list[tuple[int, bool]] = []
    with open_container(path) as container:
        try:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:  # the last one is empty and only flushes the decoder
                    if packet.pts is None or packet.is_corrupt or packet.is_discard:
                        return []
                    stamps.append((packet.pts, packet.is_keyframe))
        except (av.error.FFmpegError, OSError):
            return []
    stamps.sort()
    if any(a[0] == b[0] for a, b in itertools.pairwise(stamps)):
        return []
    return [(index, stamp) for index, (stamp, key) in enumerate(stamps) if key]


def frames_of(shard: Shard, config: Config) -> Iterator[Frame]:
    """Yield the frames of a shard as a run over the whole source would see them.

    Raises:
        SourceError: the source cannot be read.
    """
    config = dataclasses.replace(config, source=dataclasses.replace(config.source, realtime=False))
    if Path(shard.address).is_dir():
        yield from _pictures(shard, config)
        return
    source = open_source(shard.address, config)
    if isinstance(source, VideoFile) and not _entered(source, shard):
        source.close()
        source = open_source(shard.address, config)
    end = None if shard.count is None else shard.first + shard.count
    with source:
        for frame in source:
            if end is not None and frame.index >= end:
                return
            if frame.index >= shard.first:
                yield frame


def _entered(source: VideoFile, shard: Shard) -> bool:
    return shard.stamp is None or source.begin_at(shard.stamp, shard.first)


def _pictures(shard: Shard, config: Config) -> Iterator[Frame]:
    paths = pictures_in(Path(shard.address))
    end = None if shard.count is None else shard.first + shard.count
    some = paths[shard.first : end]
    with Pictures(some, Path(shard.address).name, shard.address, config) as source:
        rate = source.info.fps or 1.0
        for frame in source:
            index = frame.index + shard.first
            yield Frame(frame.picture, index / rate, index, frame.camera)
