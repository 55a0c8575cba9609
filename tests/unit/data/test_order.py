"""The order of samples, and the processes that load them."""

import os
import signal

import torch

from ddpm_from_scratch.data.order import PositionDataset, load_batches


def test_every_sample_comes_once_an_epoch_and_epochs_differ():
    dataset = PositionDataset(torch.arange(10.0), None, seed=0)
    seen = dataset.__getitems__(list(range(30)))["samples"].reshape(3, 10)
    assert all(torch.equal(epoch.sort().values, torch.arange(10.0)) for epoch in seen)
    assert not torch.equal(seen[0], seen[1])


def test_a_signal_to_workers_that_are_just_starting_is_left_to_the_process_that_trains():
    dataset = PositionDataset(torch.zeros(8, 1), None, seed=0)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches = load_batches(dataset, [[0, 1], [2, 3], [4, 5]], num_workers=2)
    workers = batches._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    workers[1].join(timeout=1)
    assert all(worker.is_alive() for worker in workers)
    assert len(list(batches)) == 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
