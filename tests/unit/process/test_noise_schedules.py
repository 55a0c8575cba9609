import math

import pytest
import torch

from ddpm_from_scratch.process import noise_schedules as ns


def alphas_cumprod(name, num_steps=1000, **options):
    return ns.alphas_cumprod_from_betas(ns.betas_for_schedule(name, num_steps, **options).double())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("linear", (0.5241, 0.0786, 0.00335)),
        ("squaredcos_cap_v2", (0.8470, 0.4938, 0.1443)),
        ("sigmoid", (0.904, 0.302, 0.006)),
        ("sigmoid_alpha_bar", (0.851, 0.500, 0.149)),
    ],
)
def test_alpha_bar_at_a_quarter_half_and_three_quarters(name, values):
    table = alphas_cumprod(name)
    for step, value in zip((250, 500, 750), values, strict=True):
        assert float(table[step - 1]) == pytest.approx(value, abs=6e-4 if value > 0.01 else 5e-4)


def test_cosine_alpha_bar_is_the_closed_form_divided_by_its_start():
    table = alphas_cumprod("squaredcos_cap_v2", cosine_s=0.02)
    time = (torch.arange(1000) + 1) / 1000
    curve = torch.cos((time.double() + 0.02) / 1.02 * math.pi / 2) ** 2
    expected = curve / math.cos(0.02 / 1.02 * math.pi / 2) ** 2
    torch.testing.assert_close(table[:-1], expected[:-1], rtol=1e-4, atol=1e-9)  # float32 betas


def test_cap_bounds_the_cosine_betas():
    assert float(ns.betas_for_schedule("squaredcos_cap_v2", 100, max_beta=0.5).max()) == 0.5


def test_sigmoid_alpha_bar_with_larger_tau_is_closer_to_linear_in_time():
    time = (torch.arange(1000).double() + 1) / 1000
    bend = [
        float((alphas_cumprod("sigmoid_alpha_bar", sigmoid_tau=tau) - (1 - time)).abs().max())
        for tau in (0.5, 1, 4)
    ]
    assert bend[0] > bend[1] > bend[2]
    assert bend[2] < 0.01


def test_laplace_has_the_log_snr_of_the_paper():
    table = alphas_cumprod("laplace")
    for step in (100, 250, 400):
        time = step / 1000
        expected = -0.5 * math.log(1 - 2 * (0.5 - time) + 1e-6)
        assert float(ns.log_snr(table)[step - 1]) == pytest.approx(expected, abs=1e-3)


def test_zero_terminal_snr_keeps_the_first_level_and_ends_without_signal():
    betas = ns.linear_betas(1000)
    before, after = (ns.alphas_cumprod_from_betas(b) for b in (betas, ns.rescale_zero_terminal_snr(betas)))
    assert float(after[-1]) == 0
    torch.testing.assert_close(after[0], before[0])
    assert bool((after[1:] < after[:-1]).all())


def test_snr_and_log_snr_agree():
    table = alphas_cumprod("linear")
    torch.testing.assert_close(ns.snr(table).log(), ns.log_snr(table))


def test_unknown_schedule_names_the_right_word():
    with pytest.raises(NotImplementedError, match="squaredcos_cap_v2"):
        ns.betas_for_schedule("cosine", 10)


@pytest.mark.parametrize("bad", [[0.1] * 9, [[0.1] * 10], [0.1] * 9 + [float("nan")], [0.1] * 9 + [1.5]])
def test_given_betas_are_checked(bad):
    with pytest.raises(ValueError, match="trained_betas"):
        ns.given_betas(bad, 10)
