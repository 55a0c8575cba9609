"""What a network says about probability: score, variational bound, probability flow."""
