"""Segmentation: images, masks, and the measures that compare masks."""
