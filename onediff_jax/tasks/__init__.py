"""What each task is: its frames, prompts, condition images, cameras and rays (numpy, scipy)."""
