"""Parts of `experiments.scale_check`: chips, abstract arguments, compiled programs."""
