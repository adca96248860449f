"""The order of a batch with several results for each image."""

from __future__ import annotations

import torch

from provoke.core import batches


def test_runs_are_taken_out_and_put_back() -> None:
    """Two images with three results each: run k holds result k of both."""
    rows = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])  # image, result
    parts = batches.runs(rows, 3)
    assert [part.tolist() for part in parts] == [[[0, k], [1, k]] for k in range(3)]
    assert torch.equal(batches.joined(parts), rows)
    assert torch.equal(batches.joined(batches.runs(rows, 1)), rows)


def test_every_run_of_copies_is_the_batch_itself() -> None:
    batch = torch.rand(2, 3, 4, 4)
    assert all(torch.equal(part, batch) for part in batches.runs(batches.repeated(batch, 3), 3))


def test_pictures_beside_each_other() -> None:
    images = torch.rand(3, 3, 4, 5)
    seen = batches.side_by_side(images)
    assert seen.shape == (1, 4, 15, 3)
    assert torch.equal(seen[0, :, 5:10], images[1].movedim(0, -1))
