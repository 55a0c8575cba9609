import pytest
import torch

from ddpm_from_scratch import build_model, model_config
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.updates.optimizers import make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (20, 20)])
def test_orthogonalized_matrix_has_singular_values_near_one(shape, generator):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_orthogonalization_keeps_the_singular_vectors(generator):
    matrix = torch.randn(6, 10, generator=generator)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalize(matrix) @ v.T
    assert float((inner - torch.diag(inner.diag())).abs().max()) < 1e-3


@pytest.mark.parametrize("shape", [(3, 16, 40), (40, 16), (64, 576)])
def test_orthogonalization_is_the_iteration_of_the_paper(shape, generator):
    """On a CPU only the small Gram matrices are iterated, which is the same in exact arithmetic."""
    matrices = torch.randn(shape, generator=generator)
    expected = matrices.double()
    expected = expected / expected.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalize(matrices), expected.float(), atol=1e-4, rtol=0)


def test_orthogonalization_stays_bounded_for_singular_matrices(generator):
    matrix = torch.randn(32, 1, generator=generator) @ torch.randn(1, 288, generator=generator)
    assert float(torch.linalg.matrix_norm(orthogonalize(matrix), 2)) < 1.3
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_muon_takes_inner_matrices_and_kernels_only():
    model = build_model(model_config("tiny", num_class_embeds=4))
    optimizer = make_optimizer(model, TrainingConfig(dataset_name="digits", optimizer="muon"))
    muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    taken = {name for name, p in model.named_parameters() if id(p) in muon}
    assert "down_blocks.0.resnets.0.conv1.weight" in taken and "time_embedding.linear_1.weight" in taken
    assert not taken & {"conv_in.weight", "conv_out.weight", "class_embedding.weight", "conv_in.bias"}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_adamw_part_equals_torch(name, generator):
    """On a parameter that Muon does not take, both optimizers do what torch.optim.AdamW does."""
    layers = [torch.nn.LayerNorm(8) for _ in range(2)]
    config = TrainingConfig(dataset_name="digits", optimizer=name, learning_rate=0.01, adam_weight_decay=0.1)
    ours = make_optimizer(layers[0], config)
    torch_adamw = torch.optim.AdamW(layers[1].parameters(), lr=0.01, betas=(0.95, 0.999), weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(8, generator=generator)
        for layer, optimizer in zip(layers, (ours, torch_adamw), strict=True):
            layer.weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


def test_adamw_goes_on_from_its_state(generator):
    layers = [torch.nn.LayerNorm(8) for _ in range(2)]
    config = TrainingConfig(dataset_name="digits", learning_rate=0.01)
    straight, resumed = (make_optimizer(layer, config) for layer in layers)
    gradients = torch.randn(4, 8, generator=generator)
    for number, gradient in enumerate(gradients):
        if number == 2:
            state = resumed.state_dict()
            resumed = make_optimizer(layers[1], config)
            resumed.load_state_dict(state)
        for layer, optimizer in zip(layers, (straight, resumed), strict=True):
            layer.weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(layers[0].weight, layers[1].weight)
