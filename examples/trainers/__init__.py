"""Trainers of diffusion RL on tiny networks, as one writes them, under ``gradcheck.watch``."""
