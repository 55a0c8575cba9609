"""The files of a run: the pipeline that it exports is the network that it trained."""

import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchPipeline, FewStepScheduler
from ddpm_from_scratch.runtime.errors import StorageError
from ddpm_from_scratch.training import run as run_module
from trainers import make_trainer


def parameters(network):
    return torch.cat([value.detach().flatten() for value in network.parameters()])


def test_the_exported_pipeline_has_the_average_and_beside_it_the_raw_weights(tmp_path):
    trainer = make_trainer(tmp_path / "run", "--use_ema", "--prediction_type=v_prediction")
    list(trainer.updates())
    trainer.export()
    averaged, raw = (
        DDPMFromScratchPipeline.from_pretrained(tmp_path / "run", variant=variant).unet
        for variant in (None, "non_ema")
    )
    assert torch.equal(parameters(averaged), parameters(trainer.state.averaged_network()))
    assert torch.equal(parameters(raw), parameters(trainer.state.raw_network()))
    assert not torch.equal(parameters(averaged), parameters(raw))
    scheduler = DDPMFromScratchPipeline.from_pretrained(tmp_path / "run").scheduler
    assert type(scheduler) is FewStepScheduler and scheduler.config.num_train_timesteps == 20
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("names", "saved"),
    [
        (["cat", "dog"], {0: "cat", 1: "dog"}),
        (["0", "2", "dog"], {0: "0", 1: "2", 2: "dog"}),  # each as it is in the data
        (["0", "1"], None),
    ],
)
def test_the_names_of_classes_go_with_the_pipeline(tmp_path, names, saved):
    trainer = make_trainer(tmp_path / "run", "--label_column=label", "--label_dropout=0.1")
    trainer.data.class_names = names
    assert trainer.pipeline().config.id2label == saved


def test_an_update_is_saved_once(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run")
    next(trainer.updates())
    trainer.save_checkpoint()
    monkeypatch.setattr(trainer.state, "save", lambda *_: pytest.fail("saved again"))
    trainer.save_checkpoint()


@pytest.mark.parametrize(
    ("flags", "copies"), [((), 2 * 3 + 1), (("--use_ema",), 2 * 4 + 2), (("--optimizer=muon",), 2 * 2 + 1)]
)
def test_the_space_of_two_checkpoints_and_a_pipeline_is_asked_for(tmp_path, monkeypatch, flags, copies):
    trainer, asked = make_trainer(tmp_path / "run", *flags), []
    monkeypatch.setattr(run_module, "require_space", lambda *given: asked.append(given))
    trainer.require_space()
    assert asked == [(tmp_path / "run", 4 * copies * trainer.num_parameters, "this run")]


def test_a_pipeline_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run")
    trainer.export()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    next(trainer.updates())

    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(run_module, "require_space", full)
    with pytest.raises(StorageError, match="full"):
        trainer.export()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
