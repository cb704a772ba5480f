import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manypose.models.train import ranks


def _work(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    values = [torch.full((2, 3), float(rank)), torch.tensor([10.0 * rank])]
    # nobody has learnt anything yet: nothing may change
    still = ranks.averaged(values, 0, [1.0])
    same = [v.clone() for v in values]
    sums = ranks.averaged(values, 3 if rank else 1, [float(rank), 2.0])
    torch.save(
        {"still": still, "same": same, "values": values, "sums": sums}, f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_weights_are_averaged_by_how_much_was_learnt(tmp_path):
    mp.spawn(_work, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert got["still"] == [2.0]
        assert torch.equal(got["same"][0], torch.full((2, 3), float(rank)))
        assert torch.allclose(got["values"][0], torch.full((2, 3), 0.75))
        assert torch.allclose(got["values"][1], torch.tensor([7.5]))
        assert got["sums"] == [1.0, 4.0]
