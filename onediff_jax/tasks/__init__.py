"""What each task is: its frames and their roles, prompts, cameras and rays.

numpy, OpenCV and Pillow only.
"""
