"""Parts of `experiments.rehearse`: shrunken models, tasks of scripted replies."""
