"""What training minimises, which timesteps it sees, and the calibration of a trained network."""
