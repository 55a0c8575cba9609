"""How training timesteps are drawn: uniform, stratified, or where the loss is large.

Each leaves the expected loss as it is and lowers its variance.
"""

import torch

from .. import checks
from ..process.timesteps import checked_timesteps


def uniform_timesteps(
    batch_size: int,
    num_train_timesteps: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Return independent timesteps, uniform in 0..T-1, int64, shape (B,) (Ho et al. 2020, algorithm 1)."""
    return torch.randint(num_train_timesteps, (batch_size,), generator=generator, device=device)


def stratified_timesteps(
    batch_size: int,
    num_train_timesteps: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    *,
    first_stratum: int = 0,
    num_strata: int | None = None,
) -> torch.Tensor:
    """Return timesteps that cover 0..T-1 evenly, one in each stratum, int64, shape (B,).

    t_i = floor(T (i + u_i) / n),  u_i ~ U[0, 1),  i = first_stratum .. first_stratum + B - 1

    Each t_i alone is uniform over its stratum and a random sample's t is uniform over 0..T-1, so the loss
    stays unbiased while its variance falls (low-discrepancy sampling, Kingma et al. 2021, arXiv:2107.00630,
    app. I.1).

    Args:
        batch_size: B.
        num_train_timesteps: T.
        generator: source of u.
        device: where the result lives.
        first_stratum: i of the first sample, for a batch that is one part of a larger one.
        num_strata: n, the size of the larger batch; B if not given.

    Raises:
        ValueError: strata that do not lie in 0..n-1.
    """
    num_strata = batch_size if num_strata is None else num_strata
    if not 0 <= first_stratum <= first_stratum + batch_size <= num_strata:
        raise ValueError(
            f"strata {first_stratum}..{first_stratum + batch_size - 1} do not lie in 0..{num_strata - 1}."
        )
    jitter = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)
    strata = torch.arange(first_stratum, first_stratum + batch_size, device=device)
    timesteps = (num_train_timesteps * (strata + jitter) / num_strata).long()
    return timesteps.clamp(max=num_train_timesteps - 1)  # rounding of (i + u) / n may reach 1


class LossAwareTimesteps:
    """Draw timesteps more often where the loss is large, and weight the loss so that its mean stays.

    p_t = (1 - u) sqrt(E[L_t^2]) / sum_t sqrt(E[L_t^2]) + u / T,   weight_t = 1 / (T p_t)
                                            (Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.3, eq. 18)

    Of all distributions over t, this one gives the weighted loss the smallest variance. E[L_t^2] is the mean
    over the last losses seen at t; until every timestep has its full number of them, p is uniform.

    Args:
        num_train_timesteps: T.
        history_size: number of losses that are kept for each timestep; the paper keeps 10.
        uniform_prob: u, which keeps every timestep in use; 0.001 in the paper's code.

    Attributes:
        history: last losses, float64, shape (T, history_size); their order within a row means nothing.
        counts: number of losses seen so far at each timestep, int64, shape (T,).
    """

    def __init__(self, num_train_timesteps: int, history_size: int = 10, uniform_prob: float = 0.001):
        checks.integer("num_train_timesteps", num_train_timesteps, 1)
        checks.integer("history_size", history_size, 1)
        self.uniform_prob = checks.real("uniform_prob", uniform_prob, 0, 1)
        self.history = torch.zeros(num_train_timesteps, history_size, dtype=torch.float64, device="cpu")
        self.counts = torch.zeros(num_train_timesteps, dtype=torch.int64, device="cpu")

    def probabilities(self) -> torch.Tensor:
        """Return p_t of every timestep, float64, shape (T,)."""
        num_train_timesteps, history_size = self.history.shape
        uniform = torch.full_like(self.history[:, 0], 1 / num_train_timesteps)
        size = self.history.square().mean(1).sqrt()
        if bool((self.counts < history_size).any()) or not bool(size.sum() > 0):
            return uniform
        return torch.lerp(size / size.sum(), uniform, self.uniform_prob)

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return timesteps, int64, and the weights of their losses, float32, each of shape (B,) on the CPU.

        The objective is the mean of weight x loss; its expectation is that of the loss at uniform timesteps.

        Args:
            batch_size: B.
            generator: of the CPU; in a run of several processes each has its own.
        """
        probabilities = self.probabilities()
        timesteps = torch.multinomial(probabilities, batch_size, replacement=True, generator=generator)
        weights = 1 / (len(probabilities) * probabilities[timesteps])
        return timesteps, weights.float()

    def update(self, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        """Record losses that were seen.

        In a run of several processes give each of them the losses of all, gathered in the same order, so that
        all keep the same state. The values are read, so an accelerator is waited for.

        Args:
            timesteps: of the samples, shape (N,).
            losses: of the same samples, before they are weighted, shape (N,).

        Raises:
            ValueError: shapes that differ, a timestep out of range, or a loss that is not finite, which would
                stay in the probabilities; nothing is recorded then.
        """
        num_train_timesteps, history_size = self.history.shape
        timesteps, losses = timesteps.detach().cpu(), losses.detach().cpu().double()
        if timesteps.ndim != 1 or timesteps.shape != losses.shape:
            raise ValueError(
                f"timesteps have shape {tuple(timesteps.shape)} and losses {tuple(losses.shape)}, but both "
                "must have shape (N,): one loss for each sample."
            )
        checked_timesteps(timesteps, num_train_timesteps, batch_size=len(losses))
        if not bool(losses.isfinite().all()):
            first = int((~losses.isfinite()).nonzero()[0])
            raise ValueError(
                f"the loss is {float(losses[first])} at timestep {int(timesteps[first])}, but must be "
                "finite; lower the learning rate or use more precision."
            )
        history, counts = self.history.numpy(), self.counts.numpy()  # the same memory, faster to index
        for timestep, loss in zip(timesteps.tolist(), losses.tolist(), strict=True):
            history[timestep, counts[timestep] % history_size] = loss
            counts[timestep] += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the state: `history` and `counts`."""
        return {"history": self.history.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Restore a state.

        Raises:
            KeyError: a missing tensor.
            ValueError: a tensor of another shape or dtype, from a run with other settings.
        """
        for name, own in self.state_dict().items():
            given = state_dict[name]
            if given.shape != own.shape or given.dtype != own.dtype:
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)} and {given.dtype}, but must have "
                    f"{tuple(own.shape)} and {own.dtype}; make the sampler with the settings of the state."
                )
        self.history, self.counts = (state_dict[name].cpu().clone() for name in ("history", "counts"))
