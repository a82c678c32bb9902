"""Many videos, and one video on several GPUs."""
