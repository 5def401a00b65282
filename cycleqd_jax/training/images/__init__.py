"""Training of segmentation models on images with masks."""
