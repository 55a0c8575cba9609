"""What diffusion is: schedules, noising, conversions, the posterior, timesteps."""
