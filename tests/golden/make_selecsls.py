"""Writes selecsls.npz: what the six SelecSLS networks answer with weights made by a formula.

The formula needs no trained weights and gives the same numbers on every machine. Run
``python tests/golden/make_selecsls.py`` only when behaviour is meant to change.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from manypose.models import selecsls

SIZE = 64  # px, both sides
WIDTH = 0.25  # of the channels: the file is about structure, and 30 M weights take seconds
STAGE_SAMPLES = 64


def unit(key: str, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1): a 32-bit mix of position and CRC-32 of the key."""
    start = np.uint64(zlib.crc32(key.encode()))
    h = ((np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B1 + start) & 0xFFFFFFFF).astype(
        np.uint64
    )
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    return h / 2.0**32


def seeded(net: torch.nn.Module) -> torch.nn.Module:
    """Return the network, in evaluation mode, with the formula's weights."""
    state = net.state_dict()
    norms = {k.removesuffix(".running_mean") for k in state if k.endswith(".running_mean")}
    for key, tensor in state.items():
        shape = tuple(tensor.shape)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        else:
            u = unit(key, tensor.numel()).reshape(shape)
            s = 2 * u - 1
            owner, _, what = key.rpartition(".")
            if what == "running_var" or (owner in norms and what == "weight"):
                value = 0.75 + 0.5 * u
            elif what in ("bias", "running_mean"):
                value = 0.1 * s
            elif len(shape) == 4:
                value = s * np.sqrt(6 / np.prod(shape[1:]))
            else:
                value = s * np.sqrt(3 / shape[1])
        state[key] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    net.load_state_dict(state)
    return net.eval()


def picture(height: int, width: int) -> torch.Tensor:
    """Return the input (1, 3, height, width) of the formula."""
    c, y, x = np.meshgrid(*(np.arange(n) for n in (3, height, width)), indexing="ij")
    s = 2 * unit("input", 3 * height * width).reshape(3, height, width) - 1
    wave = np.sin(2 * np.pi * (3 * x / width + c / 3)) + np.cos(
        2 * np.pi * (2 * y / height - c / 5)
    )
    return torch.from_numpy((0.5 * wave + 0.5 * s).astype(np.float32))[None]


def summary(values: torch.Tensor) -> np.ndarray:
    """Return mean, standard deviation and 64 values of a tensor, float32 (66,)."""
    flat = values.double().flatten()
    n, k = len(flat), np.arange(STAGE_SAMPLES)
    at = np.minimum(k * n // STAGE_SAMPLES + n // (2 * STAGE_SAMPLES), n - 1)
    head = torch.stack([flat.mean(), flat.std(correction=0)])
    return torch.cat([head, flat[torch.from_numpy(at)]]).float().numpy()


def answer(net: torch.nn.Module, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (1000,) and the summaries of stem, blocks and head layers, in order."""
    found: list[np.ndarray] = []
    blocks = [net.stem, *net.features, *(net.head or [])]

    def keep(_module: object, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, torch.Tensor)
        found.append(summary(first))

    hooks = [b.register_forward_hook(keep) for b in blocks]
    with torch.inference_mode():
        logits = net(picture(height, width))[0].numpy()
    for hook in hooks:
        hook.remove()
    return logits, np.stack(found)


def main() -> None:
    """Write the file beside this script."""
    arrays = {}
    for name in selecsls.VARIANTS:
        logits, stages = answer(seeded(selecsls.build(name, width=WIDTH)), SIZE, SIZE)
        arrays[f"{name}/logits"] = logits[::20]
        arrays[f"{name}/stages"] = stages[:, :10]
    np.savez_compressed(Path(__file__).with_name("selecsls.npz"), **arrays)


if __name__ == "__main__":
    main()
